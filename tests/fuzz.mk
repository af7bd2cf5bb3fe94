# Hostile guests and damaged input. tests/unit/test_fuzz.c, tests/fuzz/cli.c.
#   make test-fuzz-long    many thousands of cases (SAN=1 too); SEED=N repeats a run
FUZZ_CLI := $(B)/fuzz-cli
$(FUZZ_CLI): $(call obj,tests/fuzz/cli.c)
	@mkdir -p $(@D)
	$(Q)$(CC) $(SANFLAGS) -o $@ $< $(LDFLAGS)
TEST_NEEDS += $(FUZZ_CLI)
TEST_COMMANDS += tests/fuzz/run
.PHONY: test-fuzz test-fuzz-long
test-fuzz: $(FUZZ_CLI) $(B)/vmenter $(boot_images)
	@B=$(B) tests/fuzz/run
TEST_LONG += test-fuzz-long
test-fuzz-long: $(FUZZ_CLI) $(B)/vmenter $(B)/tests/test_fuzz $(boot_images)
	seed=$${SEED:-$$(date +%s)}; echo "SEED=$$seed"; \
	FUZZ_SEED=$$seed VMENTER_FUZZ=200000 $(B)/tests/test_fuzz && B=$(B) FUZZ_SEED=$$seed FUZZ_TIMES=100 tests/fuzz/run
