# An image of each kind that `vmenter boot` takes, which prints what it was given (tests/images/boot).
#   make boot-images       build them into $(B)/images/boot
#   make test-boot-images  ours; part of make test.   make test-boot-peers  the same on QEMU, and by GRUB
BOOT_KINDS := mb1-elf32 mb1-elf64 mb1-flat mb1-video mb2-elf32 mb2-elf64 mb2-flat mb2-moved both pvh-elf32 pvh-elf64
boot_images := $(BOOT_KINDS:%=$(B)/images/boot/%)
BOOT_CFLAGS := -m32 -std=gnu11 -O2 -Wall -Wextra -Wno-unused-parameter -ffreestanding -fpie -fvisibility=hidden -fno-stack-protector \
	-fno-asynchronous-unwind-tables -mgeneral-regs-only -fcf-protection=none -fno-jump-tables -fno-strict-aliasing -Wno-array-bounds
boot_defines = $(if $(filter mb1-% both,$(1)),-DMB1) $(if $(filter mb2-%,$(1)),-DMB2) $(if $(filter pvh-%,$(1)),-DPVH) \
	$(if $(filter %-flat,$(1)),-DFLAT) $(if $(filter %-video,$(1)),-DVIDEO) $(if $(filter %-moved,$(1)),-DRELOCATABLE) \
	$(if $(filter both,$(1)),-DMB2) -DIMAGE_NAME='"$(1)"'
.PHONY: boot-images test-boot-images test-boot-peers
boot-images: $(boot_images)
$(boot_images): $(B)/images/boot/%: $(wildcard tests/images/boot/*)
	@mkdir -p $(@D)
	$(Q)$(IMAGE_CC) $(BOOT_CFLAGS) $(call boot_defines,$*) -nostdlib -static -no-pie -Wl,-z,noexecstack -Wl,--no-warn-rwx-segments \
		-Wl,--build-id=none -Wl,-z,max-page-size=4096 -Wl,-T,tests/images/boot/image.ld -o $@.elf \
		tests/images/boot/start.S tests/images/boot/show.c
	$(Q)$(IMAGE_OBJCOPY) -O $(if $(filter %-flat,$*),binary,$(if $(filter %-elf64 both,$*),elf64-x86-64,elf32-i386)) $@.elf $@
# A bzImage of 16-bit code: 4 KiB of it, and 16 bytes of a kernel that is not run.
$(B)/images/boot/real16: tests/images/boot/real16.S tests/images/boot/real16.ld
	@mkdir -p $(@D)
	$(Q)$(IMAGE_CC) -m32 -nostdlib -static -no-pie -Wl,--build-id=none -Wl,-z,noexecstack -Wl,--no-warn-rwx-segments \
		-Wl,-T,tests/images/boot/real16.ld -o $@.elf $<
	$(Q)$(IMAGE_OBJCOPY) -O binary $@.elf $@
	$(Q)rm -f $@.elf
boot_images += $(B)/images/boot/real16
boot-images: $(B)/images/boot/real16
TEST_NEEDS += $(boot_images)
TEST_COMMANDS += tests/images/boot/run
test-boot-images: $(boot_images) $(B)/vmenter
	@B=$(B) tests/images/boot/run
test-boot-peers: test-boot-images
	@B=$(B) tests/images/boot/run peers
