# `vmenter check` and `vmenter explain`.
TEST_COMMANDS += tests/check/run
