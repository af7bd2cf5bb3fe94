/* SPDX-License-Identifier: MIT
 *
 * The native entry functions, linked into the image.
 */
#include "src/native/enter.S"
