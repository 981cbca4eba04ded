#!/bin/sh
# Install one of the system's packages with apt-get if this user may; otherwise say what to do, and fail.
#   scripts/system-package.sh PACKAGE 'what it is needed for'
package=$1 reason=$2
if ! command -v apt-get >/dev/null 2>&1; then
    echo "$package is missing ($reason): install it with your system's package manager."
    exit 1
fi
if [ "$(id -u)" = 0 ]; then
    as_root=
elif command -v sudo >/dev/null 2>&1 && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
    as_root=sudo
else
    echo "$package is missing ($reason) and needs an administrator: sudo apt-get install $package"
    exit 1
fi
echo "Installing $package with apt-get ($reason)..."
install() { $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$package" >/dev/null 2>&1; }
install || { $as_root apt-get update -qq >/dev/null 2>&1 && install; } || {
    echo "$package could not be installed: sudo apt-get install $package"
    exit 1
}
