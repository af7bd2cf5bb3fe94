#include "src/vmx/vmx_int.h"
#include "src/cpu/op.h"
void vmx_exit(struct cpu *c, uint32_t reason, uint64_t qualification) {}
void vmx_exit_insn(struct cpu *c, const struct op *o, uint32_t reason, uint64_t qualification, uint32_t info) {}
