# Debian's Xen on the software PC. It downloads some 90 MB of packages once, and takes minutes: part of make test-long, not of make test.
#   make xen          build/xen: Xen, a kernel and an initramfs for its first domain
#   make test-xen     Xen boots with 1, 2 and 4 processors, both vendors' models; a domain under VMX and under SVM
ifndef CROSS
XEN := build/xen
$(XEN)/xen: tools/xen-files | setup-run
	$(call say,GET)
	$(Q)tools/xen-files $(XEN)
$(XEN)/initrd.img: $(XEN)/xen tools/xen-initrd tests/xen/init $(GUEST_INITRD)
	$(call say,GEN)
	$(Q)tools/xen-initrd $(XEN) tests/xen/init $(XEN)/vmlinuz $(GUEST_INITRD) $@
.PHONY: xen test-xen
xen: $(XEN)/initrd.img
test-xen: $(B)/vmenter $(XEN)/initrd.img
	@B=$(B) XEN=$(XEN) tests/xen/run
TEST_LONG += test-xen
endif
