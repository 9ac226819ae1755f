# What image recipes share: Debian packages that are unpacked and never installed, kernel
# modules in the order they load, initramfs archives.  Sourced by `build`, which sets:
#   CACHE   the cache folder        RECIPE  the folder of the recipe
#   OUT     the folder being built  WORK    scratch space, removed afterwards
# shellcheck shell=bash

# Every file in an image has this time, so that two builds are the same.
export SOURCE_DATE_EPOCH=1735689600
export E2FSPROGS_FAKE_TIME=$SOURCE_DATE_EPOCH

# candidate PACKAGE: the version that apt would install, nothing if it knows none.
candidate()
{
    apt-cache policy "$1" | sed -n 's/^ *Candidate: \([^(].*\)/\1/p'
}

# installed PACKAGE: the version on this machine.
installed()
{
    dpkg-query -W -f '${Version}\n' "$1"
}

# kernel_package FLAVOUR: the package that linux-image-FLAVOUR stands for at present.
kernel_package()
{
    apt-cache depends "linux-image-$1" | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p'
}

# unpack PACKAGE FOLDER: downloads once, for all recipes, and unpacks.
unpack()
{
    local file debs=$CACHE/.debs
    file=$debs/$1_$(candidate "$1" | sed 's/:/%3a/')_amd64.deb
    mkdir -p "$debs"
    if [ ! -f "$file" ]; then
        mkdir -p "$WORK/download"
        (cd "$WORK/download" && apt-get -qq -o APT::Sandbox::User=root download "$1")
        mv "$WORK/download/"*.deb "$debs/"
    fi
    dpkg-deb -x "$file" "$2"
}

# unpack_kernel FLAVOUR FOLDER: leaves FOLDER/boot/vmlinuz-* and indexed modules; says which
# version it is.
unpack_kernel()
{
    local version
    unpack "$(kernel_package "$1")" "$2"
    version=$(ls "$2/lib/modules")
    depmod -b "$2" "$version"
    echo "$version"
}

# add_modules KERNEL VERSION ROOT MODULE...: copies modules and all they need from an
# unpacked kernel, and lists them in ROOT/modules in the order in which they load.
add_modules()
{
    local kernel=$1 version=$2 root=$3 path
    shift 3
    modprobe -d "$kernel" -S "$version" --show-depends -a "$@" |
        sed -n "s|^insmod $kernel/*\([^ ]*\).*|\1|p" | awk '!seen[$0]++' >"$root/modules"
    while read -r path; do
        install -D -m 644 "$kernel/$path" "$root/$path"
    done <"$root/modules"
    sed -i 's|^|/|' "$root/modules"
}

# busybox_root FOLDER: an initramfs tree with busybox and a link for each of its applets.
busybox_root()
{
    local applet
    mkdir -p "$1"/bin "$1"/dev "$1"/proc "$1"/sys "$1"/run "$1"/tmp "$1"/etc "$1"/mnt
    ln -s bin "$1/sbin"
    install -m 755 "$(command -v busybox)" "$1/bin/busybox"
    for applet in $(busybox --list); do
        [ "$applet" = busybox ] || ln -s busybox "$1/bin/$applet"
    done
}

# pack_initramfs FOLDER FILE
pack_initramfs()
{
    find "$1" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
    (cd "$1" && find . | LC_ALL=C sort |
        cpio --quiet --reproducible -R 0:0 -H newc -o) >"$2"
}

# extract_vmlinux BZIMAGE FILE: the ELF file inside, found through the setup header as
# Documentation/x86/boot.rst describes it.  Debian 12's kernels are compressed by LZ4.
extract_vmlinux()
{
    local setup_sectors payload_offset payload_length
    setup_sectors=$(od -An -tu1 -j $((0x1f1)) -N1 "$1")
    payload_offset=$(od -An -tu4 -j $((0x248)) -N4 "$1")
    payload_length=$(od -An -tu4 -j $((0x24c)) -N4 "$1")
    dd if="$1" bs=1M iflag=skip_bytes,count_bytes status=none \
        skip=$(((setup_sectors + 1) * 512 + payload_offset)) \
        count=$((payload_length - 4)) | lz4 -dc >"$2"   # 4: the size, behind the data
}
