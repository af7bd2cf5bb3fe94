/* SPDX-License-Identifier: MIT
 *
 * probe.h: the probe NOP, `nopl 0x746e6d76(%rax)` in this very encoding: a NOP on every processor, but the software
 * processor in identity mode sets CF. For C and assembly.
 */
#ifndef ARCH_PROBE_H
#define ARCH_PROBE_H
#define CPU_PROBE_NOP_BYTES 0x0f, 0x1f, 0x80, 0x76, 0x6d, 0x6e, 0x74
#endif
