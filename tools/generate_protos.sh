#!/usr/bin/env bash
# Generates the Python code of every .proto file in place. Generated code is committed; `make check` tells when it is stale.
set -euo pipefail
cd "$(dirname "$0")/.."
generate() { # proto-root proto-file...
    local root=$1; shift
    uv run --frozen python -m grpc_tools.protoc -I "$root" --python_out="$root" --grpc_python_out="$root" \
        --mypy_out=quiet:"$root" --mypy_grpc_out=quiet:"$root" "$@"
}
generate drivers/sdk/src drivers/sdk/src/graf_driver_sdk/v1/driver.proto
generate . graf/shell/proto/peer.proto graf/shell/proto/manager.proto

# The example in Go has stubs of its own; its plugins are pinned in its go.mod.
if command -v go >/dev/null; then
    example=drivers/examples/go
    plugins=$(mktemp -d)
    trap 'rm -rf "$plugins"' EXIT
    (cd $example && go build -o "$plugins/" google.golang.org/protobuf/cmd/protoc-gen-go google.golang.org/grpc/cmd/protoc-gen-go-grpc)
    name=graf.dev/driver-example/driverv1
    PATH="$plugins:$PATH" uv run --frozen python -m grpc_tools.protoc -I drivers/sdk/src \
        --go_out=$example/driverv1 --go_opt=module=$name --go_opt=Mgraf_driver_sdk/v1/driver.proto=$name \
        --go-grpc_out=$example/driverv1 --go-grpc_opt=module=$name --go-grpc_opt=Mgraf_driver_sdk/v1/driver.proto=$name \
        graf_driver_sdk/v1/driver.proto
else
    echo "note: Go is not installed, so the stubs of drivers/examples/go were left as they are" >&2
fi
