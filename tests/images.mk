# The bootable test images: each tests/images/NAME64.c (64-bit runtime) or NAME32.c (32-bit) is one Multiboot 1 ELF32 image.
#   make images            build them into $(B)/images
#   make test-images       our processor against the recorded lines (part of make test)
#   make test-peers        the same images on QEMU TCG and Bochs too; all lines must agree
IMAGE_CC ?= $(if $(filter x86_64,$(shell uname -m)),gcc,x86_64-linux-gnu-gcc)
IMAGE_OBJCOPY ?= $(if $(filter x86_64,$(shell uname -m)),objcopy,x86_64-linux-gnu-objcopy)
image_src := $(sort $(wildcard tests/images/*64.c tests/images/*32.c))
images := $(patsubst tests/images/%.c,$(B)/images/%,$(image_src))
IMAGE_CFLAGS := -std=gnu11 -O2 -g -Wall -Wextra -Wno-unused-parameter -ffreestanding -fno-pic -fno-pie -fno-stack-protector \
	-fno-asynchronous-unwind-tables -mno-red-zone -mgeneral-regs-only -fcf-protection=none -fno-strict-aliasing -fwrapv \
	-Wno-array-bounds -Itests/images/rt -Iinclude -I. -DVMENTER_NATIVE
image_bits = $(patsubst %64,64,$(patsubst %32,32,$(filter %64 %32,$(notdir $(1)))))
image_m = $(if $(filter %64,$(1)),-m64,-m32)

# What of the library an image links: src/vmx/check.c is freestanding.
image_more_vmxrules64 := src/vmx/check.c src/vmx/check_words.c

.PHONY: test-images
images: $(images)
$(images): $(B)/images/%: tests/images/%.c $(wildcard tests/images/rt/*) $(wildcard tests/images/*.h include/vmenter/*.h src/native/*) src/vmx/check.c src/vmx/check_words.c src/vmx/check.h src/arch/vmx_check.def
	@mkdir -p $(@D)
	$(Q)$(IMAGE_CC) $(call image_m,$*) $(IMAGE_CFLAGS) '-DIMAGE_NAME="$*"' -MMD -MP -MF $@.d -nostdlib -static -no-pie -Wl,-z,noexecstack -Wl,--no-warn-rwx-segments \
		-Wl,--build-id=none -Wl,-z,max-page-size=4096 -Wl,-T,tests/images/rt/image.ld -o $@.elf \
		tests/images/rt/boot$(if $(filter %64,$*),64,32).S tests/images/rt/rt.c $(or $(wildcard tests/images/$*.S),$(if $(filter vmx% svm% smm%,$*),src/native/enter.S)) $(image_more_$*) $<
	$(Q)$(IMAGE_OBJCOPY) -O elf32-i386 $@.elf $@


# Which model an image needs: ours, Bochs's.
image_cpu = $(if $(filter svm%,$(1)),max-amd,max)
image_bochs = $(if $(filter svm%,$(1)),ryzen,corei7_skylake_x)

TEST_NEEDS += $(images) $(B)/vmenter
TEST_COMMANDS += tests/images/run
.PHONY: test-images
test-images: $(images) $(B)/vmenter
	@B=$(B) tests/images/run

.PHONY: test-peers
test-peers: test-images
	@status=0; $(foreach i,$(notdir $(images)), \
	tests/peers/run-qemu $(B)/images/$(i) >$(B)/images/out/$(i).qemu 2>/dev/null; \
	tests/peers/compare -v peer=qemu -v image=$(i) tests/peers/known tests/images/expected/$(i).txt $(B)/images/out/$(i).qemu || status=1; \
	tests/peers/run-bochs $(B)/images/$(i) $(call image_bochs,$(i)) >$(B)/images/out/$(i).bochs 2>/dev/null; \
	tests/peers/compare -v peer=bochs -v image=$(i) tests/peers/known tests/images/expected/$(i).txt $(B)/images/out/$(i).bochs || status=1;) \
	exit $$status
