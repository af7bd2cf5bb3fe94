# Debian's memtest86+ on the software PC.
#   make test-memtest   a pass over 64 MiB: some five minutes (part of make test-long)
ifndef CROSS
MEMTEST := build/memtest
$(MEMTEST)/memtest-x64: tools/memtest-files
	$(call say,GET)
	$(Q)tools/memtest-files $(MEMTEST)
.PHONY: test-memtest
test-memtest: $(B)/vmenter $(MEMTEST)/memtest-x64
	@B=$(B) MEMTEST=$(MEMTEST) tests/memtest/run
TEST_LONG += test-memtest
endif
