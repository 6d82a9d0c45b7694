#!/usr/bin/env bash
# Tokenize in a Ray cluster that runs already: RAY_API=http://head:8265 RAY_ADDRESS=head:6379 bash docs/launch/ray-job.sh
# It runs on the head node, in a clone of the project there; the blocks of text go to the workers of all nodes.
set -euo pipefail
: "${RAY_API:?the address of the dashboard}" "${RAY_ADDRESS:?host:port of the cluster}" "${PROJECT:=$PWD}"
RAY_ADDRESS=$RAY_API ray job submit -- env RAY_ADDRESS="$RAY_ADDRESS" \
    bash -c 'cd "$1" && source .venv/bin/activate && python -m dvc repro tokenize@corpus' bash "$PROJECT"
