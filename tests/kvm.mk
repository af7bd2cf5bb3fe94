# KVM on the software PC: Debian's kernel loads its KVM modules and runs tests/kvm/kvmtest.c, a small VMM over /dev/kvm.
#   make test-kvm     that alone (part of make test)
#   make test-nested  Debian's qemu-system-x86 there, whose guest is the same kernel (part of make test-long)
ifndef CROSS
KVM_TEST := build/kvm/kvmtest
KVM_INITRD := build/kvm/initrd.img
$(KVM_TEST): tests/kvm/kvmtest.c
	@mkdir -p $(@D)
	$(Q)$(IMAGE_CC) -std=gnu11 -O2 -Wall -Wextra -static -o $@ $< -lpthread
$(KVM_INITRD): tests/kvm/init tools/kvm-initrd $(KVM_TEST) $(GUEST_KERNEL) | setup-run
	$(Q)tools/kvm-initrd $(GUEST) tests/kvm/init $@ $(KVM_TEST)
TEST_NEEDS += $(KVM_INITRD)
TEST_COMMANDS += tests/kvm/run
.PHONY: test-kvm
test-kvm: $(B)/vmenter guest $(KVM_INITRD)
	@B=$(B) GUEST=$(GUEST) SAN="$(SAN)" tests/kvm/run

KVM_NESTED := build/kvm/nested.img
QEMU_SHARE := /usr/share/qemu
QEMU_FILES := /usr/bin/qemu-system-x86_64=/usr/bin/qemu-system-x86_64 /usr/share/seabios/bios-256k.bin=$(QEMU_SHARE)/bios-256k.bin \
	$(foreach f,linuxboot_dma.bin kvmvapic.bin pvh.bin,$(QEMU_SHARE)/$(f)=$(QEMU_SHARE)/$(f)) $(QEMU_SHARE)/qboot.rom=$(QEMU_SHARE)/bios-microvm.bin
.PHONY: test-nested setup-nested
setup-nested:
	@tools/setup nested
$(KVM_NESTED): tests/kvm/nested-init tools/kvm-initrd $(GUEST_KERNEL) $(GUEST_INITRD) | setup-nested
	@mkdir -p $(@D)
	$(Q)tools/kvm-initrd $(GUEST) tests/kvm/nested-init $@ $(QEMU_FILES) $(GUEST_KERNEL)=/guest/vmlinuz $(GUEST_INITRD)=/guest/initrd.img
test-nested: $(B)/vmenter guest $(KVM_NESTED)
	@B=$(B) GUEST=$(GUEST) tests/kvm/nested
TEST_LONG += test-nested
endif
