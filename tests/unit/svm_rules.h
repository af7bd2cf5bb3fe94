/* SPDX-License-Identifier: MIT
 *
 * A VMCB that is legal, and a way to break each row of svm_check.def alone. A row without one does not compile.
 */
#include <string.h>

#include "src/arch/creg.h"
#include "src/svm/check.h"

static void legal(struct vmcb *v, struct vmenter_svm_caps *caps, struct svm_check *k)
{
    memset(v, 0, sizeof *v);
    *caps = (struct vmenter_svm_caps){
        .cr4_bits = CR4_VME | CR4_PVI | CR4_PSE | CR4_PAE | CR4_PGE | CR4_OSFXSR | CR4_SMEP,
        .efer_bits = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE | EFER_SVME,
        .asids = 64,
        .physical_bits = 40,
        .long_mode = true,
        .nested_paging = true,
        .flush_by_asid = true,
        .vnmi = true,
    };
    *k = (struct svm_check){.caps = caps, .host = {.paging = VMENTER_YES, .long_mode = VMENTER_YES}};
    vmcb_set_intercept(v, SVM_EXIT_VMRUN);
    v->control.guest_asid = 1;
    v->control.nested_ctl = VMCB_NP_ENABLE;
    v->control.ncr3 = 0x1000;
    v->save.g_pat = 0x0007040600070406;
    v->save.efer = EFER_SVME | EFER_LME | EFER_LMA;
    v->save.cr0 = CR0_PE | CR0_PG | CR0_WP | CR0_ET;
    v->save.cr3 = 0x2000;
    v->save.cr4 = CR4_PAE;
    v->save.cs.attrib = 0x29b;
    v->save.dr6 = 0xffff0ff0;
    v->save.dr7 = 0x400;
}

#define BREAK(id) static void break_##id(struct vmcb *v, struct vmenter_svm_caps *caps, struct svm_check *k)
BREAK(EFER_SVME)
{
    v->save.efer &= ~EFER_SVME;
}
BREAK(CR0_CD_NW)
{
    v->save.cr0 |= CR0_NW;
}
BREAK(CR0_HIGH)
{
    v->save.cr0 |= BIT(32);
}
BREAK(CR3_MBZ)
{
    v->save.cr3 |= BIT(40);
}
BREAK(CR4_MBZ)
{
    v->save.cr4 |= BIT(31);
}
BREAK(DR6_HIGH)
{
    v->save.dr6 |= BIT(63);
}
BREAK(DR7_HIGH)
{
    v->save.dr7 |= BIT(32);
}
BREAK(EFER_MBZ)
{
    v->save.efer |= BIT(1);
}
BREAK(LONG_MODE)
{
    caps->long_mode = false;
}
BREAK(LME_PG_PAE)
{
    v->save.cr4 &= ~CR4_PAE;
}
BREAK(LME_PG_PE)
{
    v->save.cr0 &= ~CR0_PE;
}
BREAK(CS_L_D)
{
    v->save.cs.attrib |= 0x400;
}
BREAK(VMRUN_INTERCEPT)
{
    vmcb_clear_intercept(v, SVM_EXIT_VMRUN);
}
BREAK(IOPM_ADDRESS)
{
    v->control.iopm_base_pa = BIT(40) - 0x2000;
}
BREAK(MSRPM_ADDRESS)
{
    v->control.msrpm_base_pa = BIT(40) - 0x1000;
}
BREAK(ASID_ZERO)
{
    v->control.guest_asid = 0;
}
BREAK(CET_WP)
{
    caps->cr4_bits |= CR4_CET;
    v->save.cr4 |= CR4_CET;
    v->save.cr0 &= ~CR0_WP;
}
BREAK(S_CET_MBZ)
{
    caps->cr4_bits |= CR4_CET;
    v->save.s_cet = BIT(6);
}
BREAK(EVENTINJ_TYPE)
{
    v->control.eventinj = VMCB_EVENT_VALID | 1 << 8 | 0x20;
}
BREAK(EVENTINJ_VECTOR)
{
    v->control.eventinj = vmcb_event(VMCB_EVENT_EXCEPTION, 2);
}
BREAK(ASID_RANGE)
{
    v->control.guest_asid = 64;
}
BREAK(TLB_CONTROL)
{
    v->control.tlb_control = 2;
}
BREAK(NP_UNSUPPORTED)
{
    caps->nested_paging = false;
}
BREAK(NP_HOST_PAGING)
{
    k->host.paging = VMENTER_NO;
}
BREAK(NCR3_MBZ)
{
    v->control.ncr3 |= BIT(40);
}
BREAK(G_PAT)
{
    v->save.g_pat = 0x0007040600070402;
}
BREAK(SEV)
{
    v->control.nested_ctl |= VMCB_SEV_ENABLE;
}
BREAK(VNMI_INTERCEPT)
{
    v->control.vintr |= VMCB_VINTR_NMI_ENABLE;
}
BREAK(PDPTE_MBZ)
{
    v->save.efer = EFER_SVME;
    v->control.nested_ctl = 0;
    k->pdpte_bad = VMENTER_YES;
}

static const struct {
    const char *id;
    void (*f)(struct vmcb *v, struct vmenter_svm_caps *caps, struct svm_check *k);
} breakers[] = {
#define SVM_CHECK(id, g1, g2, found, section, sentence, broken, nearest) {#id, break_##id},
#include "src/arch/svm_check.def"
};
