# vmenter: GNU make, one makefile, no generator step.  V=1 shows the commands.
#
#   make                 build/vmenter, build/libvmenter.a, build/libvmenter.so.*
#   make run | test | test-long | test-peers | lint | format | bench | install PREFIX= | clean
#   CC=clang  SAN=1  CROSS=aarch64-linux-gnu-  DEBUG=1  each build into a folder of their own

MAKEFLAGS += --no-builtin-rules
.SUFFIXES:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := all

VERSION_MAJOR := 0
VERSION := $(VERSION_MAJOR).1.0
PREFIX ?= /usr/local

# --- toolchain and build folder --------------------------------------------------------------------------------
ifeq ($(origin CC),default)
CC := gcc
endif
ifdef CROSS
override CC := $(CROSS)gcc
AR := $(CROSS)ar
endif
CXX_FOR = $(if $(findstring clang,$(1)),clang++,$(subst gcc,g++,$(1)))
CXX := $(call CXX_FOR,$(CC))

variant := $(if $(CROSS),$(CROSS:%-=%),$(if $(filter-out gcc,$(notdir $(CC))),$(notdir $(CC))))
variant := $(variant)$(if $(SAN),$(if $(variant),-)san)$(if $(DEBUG),$(if $(variant)$(SAN),-)debug)
B := build$(if $(variant),/$(variant))

OPT := $(if $(DEBUG),-O0,-O2)
WARN := -Wall -Wextra -Wpointer-arith -Wstrict-prototypes -Wmissing-prototypes -Wshadow -Wno-unused-parameter $(if $(CI),-Werror)
# Wrapping arithmetic and type punning through memory are what an emulator does; say so to the compiler once, here.
CODEGEN := -fno-strict-aliasing -fwrapv -fno-math-errno -ffp-contract=off -frounding-math -fPIC -fvisibility=hidden
Q := $(if $(V),,@)
say = $(if $(V),,@echo "  $(1) $@")
comma := ,
SANFLAGS := $(if $(SAN),-fsanitize=address$(comma)undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer)
CPPFLAGS += -Iinclude -I. -DVMENTER_BUILDING -D_GNU_SOURCE
CFLAGS_ALL = -std=gnu11 $(OPT) -g $(WARN) $(CODEGEN) $(SANFLAGS) $(CFLAGS)
# 16-byte compare-and-swap is a call where the target has no instruction for it that every processor has.
TARGET := $(shell $(CC) -dumpmachine 2>/dev/null)
LDLIBS_ALL = -lZydis -lpthread -lm $(if $(findstring x86_64,$(TARGET)),,-latomic)

# --- sources: a new file in a room is built without a line here -------------------------------------------------
ROOMS := base arch mem mmu cpu vmx svm jit dev machine hosted gdb
lib_c := $(foreach r,$(ROOMS),$(sort $(wildcard src/$(r)/*.c src/$(r)/*/*.c)))
lib_s := $(foreach r,$(ROOMS),$(sort $(wildcard src/$(r)/*.S)))
vmm_c := $(sort $(wildcard vmm/*.c))
cli_c := $(sort $(wildcard cli/*.c))
test_c := $(sort $(wildcard tests/unit/*.c))
test_cc := $(sort $(wildcard tests/unit/*.cc))

obj = $(patsubst %,$(B)/obj/%.o,$(1))
lib_o := $(call obj,$(lib_c) $(lib_s))
app_o := $(call obj,$(vmm_c) $(cli_c))
tests := $(patsubst tests/unit/%.c,$(B)/tests/%,$(test_c)) $(patsubst tests/unit/%.cc,$(B)/tests/%,$(test_cc))

LIB := $(B)/libvmenter.a
SONAME := libvmenter.so.$(VERSION_MAJOR)
SO := $(B)/libvmenter.so.$(VERSION)

.PHONY: all lib run test test-long test-peers lint format bench install clean unit
all: setup-build $(B)/vmenter $(LIB) $(SO)
lib: $(LIB)

$(B)/obj/%.c.o: %.c | setup-build
	@mkdir -p $(@D)
	$(call say,CC )
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS_ALL) $(CFLAGS_$(subst /,_,$(<D))) -MMD -MP -c $< -o $@
$(B)/obj/%.S.o: %.S | setup-build
	@mkdir -p $(@D)
	$(call say,AS )
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS_ALL) -MMD -MP -c $< -o $@
$(B)/obj/%.cc.o: %.cc | setup-build
	@mkdir -p $(@D)
	$(call say,CXX)
	$(Q)$(CXX) $(CPPFLAGS) -std=gnu++17 $(OPT) -g $(filter-out -Wstrict-prototypes -Wmissing-prototypes -Wshadow,$(WARN)) -fPIC $(SANFLAGS) -MMD -MP -c $< -o $@

$(LIB): $(lib_o)
	@mkdir -p $(@D) && rm -f $@
	$(call say,AR )
	$(Q)$(AR) rcs $@ $^
$(SO): $(lib_o)
	$(call say,LD )
	$(Q)$(CC) -shared $(SANFLAGS) -Wl,-soname,$(SONAME) -o $@ $^ $(LDFLAGS) $(LDLIBS_ALL)
	@ln -sf $(notdir $@) $(B)/$(SONAME) && ln -sf $(SONAME) $(B)/libvmenter.so
$(B)/vmenter: $(app_o) $(LIB)
	$(call say,LD )
	$(Q)$(CC) $(SANFLAGS) -o $@ $(app_o) $(LIB) $(LDFLAGS) $(LDLIBS_ALL)

$(B)/tests/%: $(B)/obj/tests/unit/%.c.o $(LIB)
	@mkdir -p $(@D)
	$(call say,LD )
	$(Q)$(CC) $(SANFLAGS) -o $@ $< $(LIB) $(LDFLAGS) -lcmocka $(LDLIBS_ALL)
$(B)/tests/%: $(B)/obj/tests/unit/%.cc.o $(LIB)
	@mkdir -p $(@D)
	$(call say,LD )
	$(Q)$(CXX) $(SANFLAGS) -o $@ $< $(LIB) $(LDFLAGS) -lcmocka $(LDLIBS_ALL)
.SECONDARY:

# --- set-up: the packages that the build, the tests, the demonstration and the peers need -------------------------
.PHONY: setup-build setup-test setup-run setup-peers
setup-build:
	@tools/setup build $(CC)
setup-test:
	@tools/setup test
setup-run:
	@tools/setup run
setup-peers:
	@tools/setup peers

# --- the guest: Debian's kernel and an initramfs of busybox -----------------------------------------------------
GUEST := build/guest
GUEST_KERNEL := $(GUEST)/vmlinuz
GUEST_INITRD := $(GUEST)/initrd.img
$(GUEST_KERNEL): tools/guest-kernel | setup-run
	$(call say,GET)
	@tools/guest-kernel $(GUEST)
$(GUEST_INITRD): tools/guest-initrd guest/init | setup-run
	$(call say,GEN)
	@tools/guest-initrd $(GUEST)
.PHONY: guest
guest: $(GUEST_KERNEL) $(GUEST_INITRD)

run: all guest
	@tools/run-demo $(B) $(GUEST)

# --- tests: tests/*.mk add to these lists -----------------------------------------------------------------------
# TEST_NEEDS: what must be built. TEST_COMMANDS: scripts that tests/run runs, each prints lines "PASS name" / "FAIL name".
TEST_NEEDS := $(tests) $(B)/vmenter
TEST_LONG := test-diff-long
TEST_COMMANDS := tests/cli tests/install tests/boot tests/pc
unit: $(tests)
include $(sort $(wildcard tests/*.mk bench/*.mk))

$(tests) $(call obj,$(test_c) $(test_cc)): | setup-test
test: all setup-test $(TEST_NEEDS) guest
	@B=$(B) GUEST=$(GUEST) CC="$(CC)" SAN="$(SAN)" tests/run "$(tests)" "$(TEST_COMMANDS)"

test-long: all setup-test
	$(MAKE) $(TEST_LONG)

# --- the house's rules -------------------------------------------------------------------------------------------
SOURCES = $(shell git ls-files '*.c' '*.h' '*.cc' '*.cpp' 2>/dev/null)
lint: all
	@B=$(B) tools/lint
format:
	@clang-format -i $(SOURCES)

install: all
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/pkgconfig $(DESTDIR)$(PREFIX)/include
	install -m 755 $(B)/vmenter $(DESTDIR)$(PREFIX)/bin/
	install -m 644 $(LIB) $(DESTDIR)$(PREFIX)/lib/
	install -m 755 $(SO) $(DESTDIR)$(PREFIX)/lib/
	ln -sf $(notdir $(SO)) $(DESTDIR)$(PREFIX)/lib/$(SONAME)
	ln -sf $(SONAME) $(DESTDIR)$(PREFIX)/lib/libvmenter.so
	install -D -m 644 src/native/enter.S $(DESTDIR)$(PREFIX)/share/vmenter/native/enter.S
	for f in $(addprefix src/,vmx/check.c vmx/check_words.c vmx/check.h arch/vmx_check.def arch/creg.def base/words.h \
		svm/check.c svm/check_words.c svm/check.h arch/svm_check.def arch/feature.def); do \
		install -D -m 644 $$f $(DESTDIR)$(PREFIX)/share/vmenter/freestanding/$$f || exit 1; done
	cd include && find vmenter -type f -exec install -D -m 644 {} $(abspath $(DESTDIR)$(PREFIX))/include/{} \;
	sed -e 's|@PREFIX@|$(abspath $(PREFIX))|' -e 's|@VERSION@|$(VERSION)|' tools/vmenter.pc.in > $(DESTDIR)$(PREFIX)/lib/pkgconfig/vmenter.pc

clean:
	rm -rf build

-include $(shell find $(B)/obj -name '*.d' 2>/dev/null)
