#!/bin/sh
# Gets Oracle's MySQL for the driver's tests: Debian's stable releases have MariaDB only, so it comes from elsewhere, is
# unpacked into the cache and started with its own loader and libraries. Does nothing where it is there already.
#
# usage: mysql_server.sh [9|8.4]   9 (the default): Debian sid.   8.4, the long-term release: Ubuntu 26.04.
set -eu

series="${1:-9}"
cache="${XDG_CACHE_HOME:-$HOME/.cache}/graf"
directory="$cache/mysql-server"
[ "$series" = 9 ] || directory="$cache/mysql-server-$series"
unpacked=
if [ -x "$directory/bin/mysqld" ] && "$directory/bin/mysqld" --version >/dev/null 2>&1; then
    [ -x "$directory/bin/mysql" ] && exit 0
    unpacked=yes # by an older version of this script, which started fewer programs of it
else
    rm -rf "$directory"
    mkdir -p "$directory/bin"
fi
log="$directory/mmdebstrap.log"

# unpack SUITE PACKAGES DIRECTORY MIRROR [more options of mmdebstrap]
unpack() {
    suite="$1" wanted="$2" target="$3" mirror="$4"
    shift 4
    mmdebstrap --variant=extract --include="$wanted" "$@" \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        "$suite" "$target" "$mirror" >>"$log" 2>&1
}

get_server() {
    packages=mysql-server-core,mysql-client-core
    debian=http://deb.debian.org/debian
    case "$series" in
    9)
        echo "setup: MySQL 9 from Debian sid into $directory"
        # The mirror's sid may be an old snapshot: its Release file is then "expired" and still the right one.
        unpack sid "$packages" "$directory/root" "$debian" --aptopt='Acquire::Check-Valid-Until "false"'
        ;;
    8.4)
        echo "setup: MySQL 8.4 from Ubuntu 26.04 into $directory"
        # Ubuntu's key comes out of a package that Debian signs.
        unpack trixie ubuntu-keyring "$directory/keys" "$debian" &&
            unpack resolute "$packages" "$directory/root" http://archive.ubuntu.com/ubuntu \
                --keyring="$directory/keys/usr/share/keyrings/ubuntu-archive-keyring.gpg"
        ;;
    *)
        echo "setup: no MySQL $series is known here; say 9 or 8.4" >&2
        return 1
        ;;
    esac
}

if [ -z "$unpacked" ] && ! get_server; then
    [ -f "$log" ] && tail -n 5 "$log" >&2
    echo "setup: MySQL $series could not be got (above); its tests fail until it is. The rest works." >&2
    rm -rf "$directory"
    exit 1
fi
rm -rf "$directory/keys"
root="$directory/root"
loader=""
for candidate in "$root"/usr/lib64/ld-linux-*.so.* "$root"/lib64/ld-linux-*.so.* "$root"/usr/lib/ld-linux-*.so.*; do
    [ -x "$candidate" ] && loader="$candidate" && break
done
[ -n "$loader" ] || { echo "setup: no dynamic loader in $root" >&2; exit 1; }
libraries="$(echo "$root"/usr/lib/*-linux-gnu):$root/usr/lib/mysql/private"
for program in mysqld:sbin mysql:bin mysqlbinlog:bin mysqldump:bin; do
    name="${program%%:*}"
    options=""
    [ "$name" = mysqld ] && options="--basedir='$root/usr' --plugin-dir='$root/usr/lib/mysql/plugin' \
--lc-messages-dir='$root/usr/share/mysql' --character-sets-dir='$root/usr/share/mysql/charsets'"
    cat >"$directory/bin/$name" <<PROGRAM
#!/bin/sh
exec '$loader' --library-path '$libraries' '$root/usr/${program#*:}/$name' "\$@" $options
PROGRAM
    chmod 755 "$directory/bin/$name"
done
"$directory/bin/mysqld" --version
