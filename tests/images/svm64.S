/* SPDX-License-Identifier: MIT
 *
 * The native entry function, linked into the image.
 */
#include "src/native/enter.S"
