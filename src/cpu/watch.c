/* SPDX-License-Identifier: MIT
 *
 * watch.c: telling a watcher what happens in the processor, and keeping the last events for a dump.
 *
 * Watching that is off costs a test of one word where an event is rare anyway: exits, entries, deliveries, port I/O,
 * MSR accesses. Watching instructions makes the processor step (ATT_STEP), so that off it costs nothing at all.
 */
#include "src/cpu/sys.h"

void cpu_told(struct cpu *c, enum cpu_watch what, uint64_t a, uint64_t b)
{
    struct cpu_note n = {.icount = c->icount,
                         .rip = c->rip,
                         .a = a,
                         .b = b,
                         .what = (uint8_t)what,
                         .cs = c->seg[SEG_CS].sel,
                         .mode = c->mode,
                         .guest = c->guest != NULL};
    if (c->cur) {
        n.icount += c->cur->n;
        n.rip = (c->gpr[GPR_BLOCK] + c->cur->ip) & c->ip_mask;
    }
    c->watch(c, &n);
}

void cpu_note_event(struct cpu *c, const struct cpu_event *ev)
{
    uint64_t a = ev->vector | (uint64_t)ev->type << 8;
    if (ev->has_error)
        a |= BIT(16) | (uint64_t)ev->error << 32;
    bool interrupt = ev->type == EVENT_EXTINT || ev->type == EVENT_NMI || ev->type == EVENT_SOFTINT;
    cpu_note(c, interrupt ? WATCH_INTERRUPT : WATCH_EXCEPTION, a, ev->payload);
}

void cpu_set_watch(struct cpu *c, uint32_t what, void (*fn)(struct cpu *c, const struct cpu_note *n), void *opaque)
{
    c->watching = fn ? what : 0;
    c->watch = fn;
    c->watch_opaque = opaque;
    cpu_update_mode(c);
}
