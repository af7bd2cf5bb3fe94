/* SPDX-License-Identifier: MIT
 *
 * mmu.h: one page-table walker for linear, EPT and nested tables, over register values; it knows no cpu and no TLB.
 *
 * SDM volume 3A, "Paging"; volume 3C, "VMX Support for Address Translation"; APM volume 2, "Page Translation and
 * Protection", "Nested Paging".
 */
#ifndef MMU_MMU_H
#define MMU_MMU_H

#include "src/base/base.h"
#include "src/mem/mem.h"

#define SMM_RAM      0xa0000u /* physical address of SMRAM ... */
#define SMM_RAM_SIZE 0x20000u
#define SMM_ALIAS    BIT(52) /* ... and what is added to it for a processor that sees it */

/* Bits of an entry in the ordinary format. */
#define PTE_P    BIT(0)
#define PTE_W    BIT(1)
#define PTE_U    BIT(2)
#define PTE_A    BIT(5)
#define PTE_D    BIT(6)
#define PTE_PS   BIT(7)
#define PTE_G    BIT(8)
#define PTE_NX   BIT(63)
#define PTE_ADDR 0x000ffffffffff000ull

/* The registers that linear-address translation depends on. */
struct mmu_regs {
    uint64_t cr0, cr3, cr4, efer;
    uint64_t
        pdpte[4]; /* PAE paging: as loaded with CR3 (Intel), or read at each walk when pdpte_in_memory (AMD nested) */
    bool pdpte_in_memory;
    bool ac; /* RFLAGS.AC, for SMAP */
    uint32_t pkru, pkrs;
    uint8_t maxphyaddr;   /* physical-address width of the model */
    uint64_t smram_alias; /* added to the addresses of paging structures in SMRAM, when the processor sees it; or 0 */
    bool gbpages, amd;    /* 1-GiB pages; vendor where reserved bits differ */
};

/* Guest-physical pages that held paging structures, with what the second level makes of them: SDM volume 3C, "Caching
 * Translation Information", "Guest-physical mappings"; on AMD a part of the ASID's TLB. Whoever invalidates them clears
 * it. */
#define MMU_TABLE_SLOTS 64u
struct mmu_table_cache {
    struct mmu_table_entry {
        uint64_t gpa, root; /* of the page; EPTP or nCR3 */
        uint64_t hpa;
        uint16_t asid;
        bool rd, wr;       /* what has been granted; neither: free */
        bool paging_write; /* "paging-write access" of the page */
    } e[MMU_TABLE_SLOTS];
};

enum mmu_second_kind { MMU_SECOND_NONE, MMU_SECOND_EPT, MMU_SECOND_NPT };
struct mmu_second {
    enum mmu_second_kind kind;
    uint64_t root;                       /* EPTP, or nCR3 */
    uint64_t npt_cr0, npt_cr4, npt_efer; /* the host's paging mode, NPT alone */
    uint8_t maxphyaddr;                  /* of the host */
    bool gbpages;
    bool ept_exec_only, ept_mbec, ept_ad; /* EPT capabilities and controls in force (ad: EPTP bit 6) */
    bool ept_paging_write;                /* "EPT paging-write control" */
    bool ept_verify;                      /* "guest-paging verification" */
    bool hlat;                            /* "enable HLAT": hlat_pointer, hlat_prefix */
    uint64_t sppt;                        /* sub-page-permission table, bit 0 set; 0: no sub-page write permissions */
    uint64_t apic_page;                   /* APIC-access page, bit 0 set; 0: APIC accesses are not virtualized */
    uint64_t hlat_pointer;
    uint8_t hlat_prefix;
    bool ept_advanced;   /* exit qualification bits 9 to 11 are reported */
    uint64_t *pml_index; /* page-modification logging: the PML index, counted down; null: off */
    uint64_t pml_address;
    struct mmu_table_cache *tables; /* null: none is kept */
    uint16_t asid;                  /* NPT: its entries belong to one. (Those of EPT belong to the EPTP alone.) */
    bool fold;     /* identity mode: tables of the first 512 GiB serve the others too (mmu_translate_gpa) */
    bool npt_gmet; /* guest mode execute trap: a user page of the nested tables is not executable to a supervisor */
};

enum mmu_access {
    MMU_READ = 0,
    MMU_WRITE = 1,
    MMU_EXEC = 2,
    MMU_ACCESS_MASK = 3,
    MMU_USER = 4,        /* CPL 3, not an implicit supervisor access */
    MMU_IMPLICIT = 8,    /* implicit supervisor access (descriptor tables, TSS): SMAP regardless of AC */
    MMU_PROBE = 16,      /* leave accessed and dirty bits alone */
    MMU_UNVERIFIED = 32, /* mmu_translate_gpa: a paging structure lies in a page without paging-write access */
};
/* How many bytes are accessed, for sub-page write permissions: in the access's high bits. None: a byte. */
#define MMU_LENGTH(len) ((unsigned)(len) << 8)

/* The #PF error code: SDM 3A, "Page-Fault Exceptions". */
#define PFEC_P    BIT(0)
#define PFEC_W    BIT(1)
#define PFEC_U    BIT(2)
#define PFEC_RSVD BIT(3)
#define PFEC_ID   BIT(4)
#define PFEC_PK   BIT(5)
#define PFEC_HLAT BIT(7)

enum mmu_fault_kind {
    MMU_OK = 0,
    MMU_PAGE_FAULT,    /* error: the #PF error code */
    MMU_EPT_VIOLATION, /* error: exit qualification bits 0-11 (8: fault was on the final translation, not on a table) */
    MMU_EPT_MISCONFIG,
    MMU_PML_FULL,    /* a dirty flag would have been set and logged */
    MMU_NPT_FAULT,   /* error: EXITINFO1 */
    MMU_APIC_ACCESS, /* a paging structure lies in the APIC-access page: a guest-physical access to it */
    MMU_SPP_EVENT,   /* error: exit qualification */
};
struct mmu_fault {
    enum mmu_fault_kind kind;
    uint64_t error;
    gpa_t gpa;        /* second-level faults */
    bool la_valid;    /* a linear address caused it (not a PDPTE load) */
    bool suppress_ve; /* EPT violation: bit 63 of the entry that ended the walk */
};

struct mmu_result {
    hpa_t hpa; /* translation of the very address asked for */
    gpa_t gpa;
    uint64_t page_size;                      /* the smaller of both levels, bytes */
    bool readable;                           /* false: only under an execute-only second-level mapping */
    bool writable, user, executable, global; /* of the linear mapping and the second level together: writable is false
                                                while a dirty bit is still to set */
    bool paging_write;                       /* EPT: paging-write access to the page */
    bool sup_writable;                       /* with CR0.WP clear a supervisor may write a read-only page */
    bool read_write;                         /* R/W of the linear mapping alone, whatever its dirty flag */
    uint8_t pkey;
    uint8_t memtype;
};

/* Translates la for the access with one or two levels. Sets accessed and dirty bits. */
enum mmu_fault_kind mmu_translate(struct mem *m, const struct mmu_regs *r, const struct mmu_second *s, la_t la,
                                  unsigned access, struct mmu_result *out, struct mmu_fault *fault);

/* The second level alone. `final` says whether it is the final translation of a linear address or that of a paging
 * structure; la_valid as in struct mmu_fault. */
enum mmu_fault_kind mmu_translate_gpa(struct mem *m, const struct mmu_second *s, gpa_t gpa, unsigned access, bool final,
                                      bool la_valid, struct mmu_result *out, struct mmu_fault *fault);

/* The four PAE PDPTEs of cr3 through the second level: false with *fault set if one has a reserved bit set (kind
 * MMU_PAGE_FAULT stands for #GP or the entry failure: the caller's business) or the second level refuses. */
bool mmu_load_pdptes(struct mem *m, const struct mmu_regs *r, const struct mmu_second *s, uint64_t cr3,
                     uint64_t pdpte[4], struct mmu_fault *fault);

/* Canonical for the number of linear-address bits that CR4.LA57 gives. */
INLINE bool mmu_canonical(uint64_t la, bool la57)
{
    return sign_extend(la, la57 ? 57 : 48) == la;
}

#endif
