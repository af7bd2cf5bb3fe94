# The native intrinsics, by their disassembly, with every compiler that is installed (part of make test).
.PHONY: test-native
ifeq ($(shell uname -m),x86_64)
TEST_COMMANDS += tests/native/disasm tests/native/msvc
test-native:
	tests/native/disasm
else
test-native:
	@echo "tests/native: the host is no x86-64 processor: skipped"
endif
TEST_COMMANDS += tests/examples
