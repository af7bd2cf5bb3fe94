#include "src/vmx/vmx_int.h"
enum vmx_result vmx_enter(struct cpu *c, bool launch)
{
    return vmx_fail(c, VMX_ERR_ENTRY_INVALID_CONTROLS);
}
bool vmx_eptp_valid(const struct vmx_caps *caps, uint64_t eptp)
{
    return true;
}
size_t vmx_explain(struct cpu *c, char *buf, size_t size)
{
    if (size)
        *buf = 0;
    return 0;
}
