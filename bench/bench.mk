# Benchmarks: never timed tests. `make bench` needs the peers' packages and installs them.
#   bench/cpu, bench/entry           loops and round trips, hosted
#   bench/workload                   fixed workloads: natively, and as a bootable image on our PC and the peers
bench_c := bench/cpu.c bench/entry.c
benches := $(patsubst bench/%.c,$(B)/bench/%,$(bench_c))
$(benches): $(B)/bench/%: $(B)/obj/bench/%.c.o $(LIB)
	@mkdir -p $(@D)
	$(call say,LD )
	$(Q)$(CC) $(SANFLAGS) -o $@ $< $(LIB) $(LDFLAGS) $(LDLIBS_ALL)

# The workloads are compiled once, for the process and the image alike, so that all contenders execute the same code.
WORKLOAD_CFLAGS := -std=gnu11 -O2 -g -Wall -Wextra -Wno-unused-parameter -ffreestanding -fno-pic -fno-pie -fno-stack-protector \
	-fno-asynchronous-unwind-tables -mno-red-zone -fcf-protection=none -fno-strict-aliasing -fno-tree-loop-distribute-patterns
workload := $(B)/bench/workload
$(workload)/workload.o: bench/workload/workload.c bench/workload/workload.h
	@mkdir -p $(@D)
	$(Q)$(IMAGE_CC) $(WORKLOAD_CFLAGS) -c -o $@ $<
$(workload)/image: bench/workload/image.c $(workload)/workload.o $(wildcard tests/images/rt/*) $(wildcard include/vmenter/*.h) src/native/enter.S
	$(Q)$(IMAGE_CC) -m64 $(IMAGE_CFLAGS) -Ibench/workload '-DIMAGE_NAME="workload"' -nostdlib -static -no-pie -Wl,-z,noexecstack \
		-Wl,--no-warn-rwx-segments -Wl,--build-id=none -Wl,-z,max-page-size=4096 -Wl,-T,tests/images/rt/image.ld -o $@.elf \
		tests/images/rt/boot64.S tests/images/rt/rt.c src/native/enter.S bench/workload/image.c $(workload)/workload.o
	$(Q)$(IMAGE_OBJCOPY) -O elf32-i386 $@.elf $@
$(workload)/native: bench/workload/native.c $(workload)/workload.o
	$(Q)$(IMAGE_CC) -std=gnu11 -O2 -Wall -Wextra -no-pie -o $@ $^
$(workload)/timeline: bench/workload/timeline.c
	@mkdir -p $(@D)
	$(Q)$(IMAGE_CC) -std=gnu11 -D_GNU_SOURCE -O2 -Wall -Wextra -o $@ $<
.PHONY: bench-tools
bench-tools: all $(benches) $(addprefix $(workload)/,image native timeline)
bench: bench-tools guest setup-peers
	@B=$(B) GUEST=$(GUEST) bench/run
