# What development.md's table has, by shorter names. `just` lists it. https://just.systems

# list what there is
default:
    @just --list

# see the product at work: the first run builds a Kubernetes control plane
demo *args:
    cargo demo {{args}}

# all tests, or those of the e2e binary whose name begins so: just test children::
test filter="":
    {{ if filter == "" { "cargo test --workspace" } else { "cargo test --test e2e -- " + filter } }}

# the tests without a cluster: seconds
unit:
    cargo test --lib

# what is checked before a commit
check:
    cargo fmt --all --check
    cargo clippy --locked --workspace --all-targets -- -D warnings
    cargo test --lib

# a Kubernetes to play with, until Ctrl-C; with containers: just up --node
up *args:
    cargo run -p cluster -- up {{args}}

# build ahead what tests build when they first need it
tools:
    cargo run -p cluster -- tools --all

# the files that are made from the code
generate:
    cargo run -q -- crd > config/crd/mcpservers.yaml
    cp config/crd/mcpservers.yaml charts/mcp-operator/files/crd.yaml
    cargo run -q -p cluster -- chart-readme > charts/mcp-operator/README.md
    cargo run -q -p cluster -- install-manifest > dist/install.yaml

# children's shapes after a meant change; look at the diff
snapshots:
    INSTA_UPDATE=always cargo test --lib

# what the operator costs
bench *args:
    cargo bench --package benches -- {{args}}

# what CI runs
ci:
    bash .ci/run
