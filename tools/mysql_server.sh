#!/bin/sh
# Gets Oracle's MySQL for the driver's tests: Debian's stable releases have MariaDB only, so it comes from sid, unpacked
# into the cache and started with its own loader and libraries. Does nothing where it is there already.
set -eu

directory="${XDG_CACHE_HOME:-$HOME/.cache}/graf/mysql-server"
if [ -x "$directory/bin/mysqld" ] && "$directory/bin/mysqld" --version >/dev/null 2>&1; then
    exit 0
fi
echo "setup: MySQL server from Debian sid into $directory"
rm -rf "$directory"
mkdir -p "$directory/bin"
log="$directory/mmdebstrap.log"
# The mirror's sid may be an old snapshot: its Release file is then "expired" and still the right one.
if ! mmdebstrap --variant=extract --include=mysql-server-core,mysql-client-core \
    --aptopt='Acquire::Check-Valid-Until "false"' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    sid "$directory/root" http://deb.debian.org/debian >"$log" 2>&1; then
    tail -n 5 "$log" >&2
    echo "setup: MySQL could not be got from Debian sid (above); its tests fail until it is. The rest works." >&2
    rm -rf "$directory"
    exit 1
fi
root="$directory/root"
loader=""
for candidate in "$root"/usr/lib64/ld-linux-*.so.* "$root"/lib64/ld-linux-*.so.* "$root"/usr/lib/ld-linux-*.so.*; do
    [ -x "$candidate" ] && loader="$candidate" && break
done
[ -n "$loader" ] || { echo "setup: no dynamic loader in $root" >&2; exit 1; }
libraries="$(echo "$root"/usr/lib/*-linux-gnu):$root/usr/lib/mysql/private"
for program in mysqld:sbin mysqlbinlog:bin mysqldump:bin; do
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
