# `vmenter check` and `vmenter explain`.
TEST_COMMANDS += tests/check/run
#   make test-vmx-long     millions of VMCSs and VMCBs: the random walk of entries, and rounding (SAN=1 too); SEED=N repeats a run
.PHONY: test-vmx-long
TEST_LONG += test-vmx-long
test-vmx-long: $(B)/tests/test_vmx_walk $(B)/tests/test_vmx_round $(B)/tests/test_svm_round
	seed=$${SEED:-$$(date +%s)}; echo "SEED=$$seed"; \
	VMX_SEED=$$seed VMX_WALK=4000000 $(B)/tests/test_vmx_walk && VMX_SEED=$$seed VMX_ROUND=1000000 $(B)/tests/test_vmx_round && \
	SVM_SEED=$$seed SVM_ROUND=1000000 $(B)/tests/test_svm_round
