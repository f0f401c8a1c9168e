# The two commands of the README. Everything else is cargo.

.PHONY: demo test

# Three nodes on this machine: load, a killed leader, its return, and an audit of every job.
demo:
	cargo build --release --quiet
	target/release/beaver-raft demo

# With optimisation, which the simulated clusters and the exhaustive models need more than the compiler needs time; and with
# every feature, so that the simulator itself is there afterwards: target/sim/beaver-raft sim.
test:
	cargo test --quiet --profile sim --all-features
	cargo test --quiet --profile sim --all-features --test raft -- --ignored
