/* SPDX-License-Identifier: MIT
 *
 * vmcs.c: the VMCS as a store of fields: which fields there are, reading and writing them by encoding, regions in
 * memory.
 *
 * SDM volume 3C, "Virtual Machine Control Structures". A region in memory: revision identifier, VMX-abort indicator,
 * launch state, epoch, then every field in 8 bytes in the order of vmcs.def.
 */
#include "src/vmx/vmx_int.h"

const struct vmcs_row vmcs_rows[F_COUNT] = {
#define VMCS(name_, encoding_, when_, group_, text_)                                                                   \
    [F_##name_] = {.encoding = encoding_,                                                                              \
                   .group = GROUP_##group_,                                                                            \
                   .width = VMCS_FIELD_WIDTH(encoding_),                                                               \
                   .type = VMCS_FIELD_TYPE(encoding_),                                                                 \
                   .name = #name_,                                                                                     \
                   .text = text_},
#include <vmenter/arch/vmcs.def>
#undef VMCS
};

/* A high-half access exists for 64-bit fields alone. */
static int legal_slot(const struct vmx_caps *caps, uint64_t encoding)
{
    int slot = vmcs_slot_of(encoding);
    if (slot < 0 || !caps->field[slot] || ((encoding & 1) && vmcs_rows[slot].width != VMCS_WIDTH_64))
        return -1;
    return slot;
}

bool vmcs_read(const struct vmx_caps *caps, const struct vmcs *v, uint64_t encoding, uint64_t *value)
{
    int slot = legal_slot(caps, encoding);
    if (slot < 0)
        return false;
    *value = encoding & 1 ? v->f[slot] >> 32 : v->f[slot];
    return true;
}

void vmcs_write(struct vmcs *v, int slot, bool high, uint64_t value)
{
    const struct vmcs_row *row = &vmcs_rows[slot];
    uint64_t old = v->f[slot];
    switch (row->width) {
    case VMCS_WIDTH_16: value = (uint16_t)value; break;
    case VMCS_WIDTH_32: value = (uint32_t)value; break;
    case VMCS_WIDTH_64:
        if (high)
            value = (value << 32) | (uint32_t)old;
        break;
    }
    if (value == old)
        return;
    v->f[slot] = value;
    v->dirty |= row->group;
    switch (slot) {
    case F_GUEST_RFLAGS:
        if ((value ^ old) & FLAG_VM)
            v->dirty |= GROUP_SEG;
        break;
    case F_PROC_CONTROLS: /* opening and closing windows is common, and no other group's rules ask for those bits */
        if (!((value ^ old) & (uint32_t)(VMX_PROC_ACTIVATE_SECONDARY_CONTROLS | VMX_PROC_ACTIVATE_TERTIARY_CONTROLS)))
            break;
        /* fall through */
    case F_PIN_CONTROLS:
    case F_PROC2_CONTROLS:
    case F_EXIT_CONTROLS:
    case F_ENTRY_CONTROLS: v->dirty = GROUP_ALL; break;
    }
}

struct vmcs *vmcs_find(struct vmx_cpu *x, uint64_t pa)
{
    for (unsigned i = 0; i < VMX_POOL; i++)
        if (x->pool[i].last_used && x->pool[i].pa == pa)
            return &x->pool[i];
    return NULL;
}

void vmcs_store(struct cpu *c, struct vmcs *v)
{
    uint32_t head[2] = {v->launched, v->epoch};
    mem_write(c->mem, HPA(v->pa + 8), head, sizeof head);
    mem_write(c->mem, HPA(v->pa + 16), v->f, sizeof v->f);
}

struct vmcs *vmcs_load(struct cpu *c, uint64_t pa)
{
    struct vmx_cpu *x = vmx_of(c);
    struct vmcs *v = vmcs_find(x, pa);
    if (!v) {
        v = &x->pool[0];
        if (v == x->cur)
            v++;
        for (unsigned i = 0; i < VMX_POOL; i++)
            if (x->pool[i].last_used < v->last_used && &x->pool[i] != x->cur)
                v = &x->pool[i];
        if (v->last_used)
            vmcs_store(c, v);
        uint32_t head[4];
        mem_read(c->mem, HPA(pa), head, sizeof head);
        mem_read(c->mem, HPA(pa + 16), v->f, sizeof v->f);
        v->pa = pa;
        v->revision = head[0];
        v->launched = head[2] == 1;
        v->epoch = head[3];
        /* What memory held need not be values that VMWRITE can make. */
        for (unsigned i = 0; i < F_COUNT; i++)
            v->f[i] &= vmcs_rows[i].width == VMCS_WIDTH_16   ? 0xffff
                       : vmcs_rows[i].width == VMCS_WIDTH_32 ? 0xffffffff
                                                             : ~0ull;
        v->dirty = GROUP_ALL;
    }
    v->last_used = ++x->clock;
    return v;
}
