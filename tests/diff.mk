# The bare processor as an oracle: unprivileged instructions, natively and on the software processor (x86-64 Linux hosts).
#   make test-diff         a few thousand cases of each family (part of make test)
#   make test-diff-long    at least a million of each; SEED=N repeats a run
TEST_COMMANDS += tests/diff/run
.PHONY: test-diff test-diff-long
ifeq ($(shell uname -m)$(CROSS),x86_64)
diff_o := $(call obj,$(wildcard tests/diff/*.c))
$(B)/diff: $(diff_o) $(LIB)
	$(Q)$(CC) $(SANFLAGS) -o $@ $(diff_o) $(LIB) $(LDFLAGS) $(LDLIBS_ALL)
TEST_NEEDS += $(B)/diff
test-diff: $(B)/diff
	@B=$(B) SAN=$(SAN) tests/diff/run
test-diff-long: $(B)/diff
	seed=$${SEED:-$$(date +%s)}; $(B)/diff --count 4000000 --seed $$seed
else
test-diff test-diff-long:
	@echo "tests/diff: the host is no x86-64 processor: skipped"
endif
