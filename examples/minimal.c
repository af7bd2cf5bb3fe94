/* A VMM in thirty lines: a real-mode guest under SVM that writes to a port and halts. */
#include <stdio.h>
#include <string.h>
#include <vmenter/enter.h>
#include <vmenter/intrin.h>
#include <vmenter/svm.h>
#include <vmenter/vmenter.h>

int main(void)
{
    struct vmenter_config config = {.size = sizeof config, .model = "max-amd", .ram = 1 << 20};
    struct vmenter_machine *m;
    char error[VMENTER_ERROR_MAX];
    if (vmenter_create(&config, &m, error) || vmenter_bind(m, 0))
        return fprintf(stderr, "%s\n", error), 1;

    /* mov si, 16; next: lodsb; test al, al; jz end; out 0xe9, al; jmp next; end: hlt; the text */
    memcpy(vmenter_host_ptr(m, 0x7000, 4096),
           "\xbe\x10\0\xac\x84\xc0\x74\4\xe6\xe9\xeb\xf7\xf4\0\0\0Hello from a guest!\n", 37);
    memset(vmenter_host_ptr(m, 0x3000, SVM_IOPM_SIZE), 0xff, SVM_IOPM_SIZE);

    __writemsr(SVM_MSR_EFER, __readmsr(SVM_MSR_EFER) | SVM_EFER_SVME);
    __writemsr(SVM_MSR_VM_HSAVE_PA, 0x2000);
    struct vmcb *v = (struct vmcb *)vmenter_host_ptr(m, 0x1000, 4096);
    vmcb_set_intercept(v, SVM_EXIT_VMRUN), vmcb_set_intercept(v, SVM_EXIT_HLT), vmcb_set_intercept(v, SVM_EXIT_IOIO);
    v->control.guest_asid = 1, v->control.iopm_base_pa = 0x3000;
    v->save.cs = v->save.ds = (struct vmcb_seg){.sel = 0x700, .attrib = 0x9b, .limit = 0xffff, .base = 0x7000};
    v->save.efer = SVM_EFER_SVME, v->save.cr0 = 0x10, v->save.rflags = 2;

    struct vmenter_regs regs = {0};
    for (;;) {
        vmenter_vmrun(0x1000, &regs);
        switch (v->control.exitcode) {
        case SVM_EXIT_IOIO: putchar(v->save.rax & 0xff), v->save.rip = v->control.exitinfo2; break;
        case SVM_EXIT_HLT: vmenter_destroy(m); return 0;
        default: return fprintf(stderr, "exit 0x%llx\n", (unsigned long long)v->control.exitcode), 1;
        }
    }
}
