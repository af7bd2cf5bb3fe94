# KVM on the software PC: Debian's kernel loads its KVM modules and runs tests/kvm/kvmtest.c, a small VMM over /dev/kvm.
#   make test-kvm     that alone (part of make test)
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
endif
