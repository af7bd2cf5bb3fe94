# The bare processor as an oracle: unprivileged instructions, natively and on the software processor (x86-64 Linux hosts).
#   make test-diff         a few thousand cases of each family (part of make test)
#   make test-diff-long    at least a million of each (part of make test-long)
ifeq ($(shell uname -m)$(CROSS),x86_64)
diff_o := $(call obj,$(wildcard tests/diff/*.c))
$(B)/diff: $(diff_o) $(LIB)
	$(Q)$(CC) $(SANFLAGS) -o $@ $(diff_o) $(LIB) $(LDFLAGS) $(LDLIBS_ALL)
.PHONY: test-diff test-diff-long
test-diff: $(B)/diff
	timeout 300 $(B)/diff --count 4000
test-diff-long: $(B)/diff
	$(B)/diff --count 4000000 --seed $${SEED:-$$(date +%s)}
else
test-diff test-diff-long:
	@echo "tests/diff: the host is no x86-64 processor: skipped"
endif
