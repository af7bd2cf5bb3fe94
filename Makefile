# vmenter: GNU make, one makefile, no generator step.
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
SANFLAGS := $(if $(SAN),-fsanitize=address$(comma)undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer)
comma := ,
SANFLAGS := $(if $(SAN),-fsanitize=address$(comma)undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer)
CPPFLAGS += -Iinclude -I. -DVMENTER_BUILDING -D_GNU_SOURCE
CFLAGS_ALL = -std=gnu11 $(OPT) -g $(WARN) $(CODEGEN) $(SANFLAGS) $(CFLAGS)
LDLIBS_ALL = -lZydis -lpthread -lm

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

.PHONY: all lib run test test-long test-peers lint format bench install clean setup images unit
all: setup-build $(B)/vmenter $(LIB) $(SO)
lib: $(LIB)

$(B)/obj/%.c.o: %.c
	@mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS_ALL) $(CFLAGS_$(subst /,_,$(<D))) -MMD -MP -c $< -o $@
$(B)/obj/%.S.o: %.S
	@mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS_ALL) -MMD -MP -c $< -o $@
$(B)/obj/%.cc.o: %.cc
	@mkdir -p $(@D)
	$(Q)$(CXX) $(CPPFLAGS) -std=gnu++17 $(OPT) -g $(filter-out -Wstrict-prototypes -Wmissing-prototypes,$(WARN)) -fPIC $(SANFLAGS) -MMD -MP -c $< -o $@

$(LIB): $(lib_o)
	@mkdir -p $(@D) && rm -f $@
	$(Q)$(AR) rcs $@ $^
$(SO): $(lib_o)
	$(Q)$(CC) -shared $(SANFLAGS) -Wl,-soname,$(SONAME) -o $@ $^ $(LDFLAGS) $(LDLIBS_ALL)
	@ln -sf $(notdir $@) $(B)/$(SONAME) && ln -sf $(SONAME) $(B)/libvmenter.so
$(B)/vmenter: $(app_o) $(LIB)
	$(Q)$(CC) $(SANFLAGS) -o $@ $(app_o) $(LIB) $(LDFLAGS) $(LDLIBS_ALL)

$(B)/tests/%: $(B)/obj/tests/unit/%.c.o $(LIB)
	@mkdir -p $(@D)
	$(Q)$(CC) $(SANFLAGS) -o $@ $< $(LIB) $(LDFLAGS) -lcmocka $(LDLIBS_ALL)
$(B)/tests/%: $(B)/obj/tests/unit/%.cc.o $(LIB)
	@mkdir -p $(@D)
	$(Q)$(CXX) $(SANFLAGS) -o $@ $< $(LIB) $(LDFLAGS) -lcmocka $(LDLIBS_ALL)
.SECONDARY:

# --- set-up: the packages that the build, the tests and the peers need --------------------------------------------
.PHONY: setup-build
setup-build:
	@tools/setup build $(CC)

unit: $(tests)

include $(sort $(wildcard tests/*.mk images/*.mk tests/images/*.mk bench/*.mk))

-include $(shell find $(B)/obj -name '*.d' 2>/dev/null)
