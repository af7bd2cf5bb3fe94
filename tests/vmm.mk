# A guest of the reference VMM that tries what the VMM emulates: tests/vmm/guest.c, made into a bzImage of its own.
ifndef CROSS
VMM_GUEST := $(B)/vmm-guest
VMM_GUEST_CFLAGS := -std=gnu11 -O1 -Wall -Wextra -Wno-unused-parameter -ffreestanding -fno-pic -fno-pie -fno-stack-protector \
	-mno-red-zone -mgeneral-regs-only -fcf-protection=none -fno-asynchronous-unwind-tables
$(VMM_GUEST): tests/vmm/guest.c tests/vmm/header.S tests/vmm/image.ld tests/vmm/make-image
	@mkdir -p $(@D)
	$(Q)IMAGE_CC="$(IMAGE_CC)" IMAGE_OBJCOPY="$(IMAGE_OBJCOPY)" CFLAGS="$(VMM_GUEST_CFLAGS)" tests/vmm/make-image $@
TEST_NEEDS += $(VMM_GUEST)
TEST_COMMANDS += tests/vmm/run
endif
