# Benchmarks: never timed tests. `make bench` needs the peers' packages and installs them.
bench_c := $(sort $(wildcard bench/*.c))
benches := $(patsubst bench/%.c,$(B)/bench/%,$(bench_c))
$(B)/bench/%: $(B)/obj/bench/%.c.o $(LIB)
	@mkdir -p $(@D)
	$(call say,LD )
	$(Q)$(CC) $(SANFLAGS) -o $@ $< $(LIB) $(LDFLAGS) $(LDLIBS_ALL)
bench: all guest setup-peers $(benches)
	@B=$(B) GUEST=$(GUEST) bench/run
