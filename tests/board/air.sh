# Runs on the emulated board, from its boot partition: makes access points with the second radio, in a network of its own.
#   air.sh begin          takes the radio away from the board
#   air.sh on FILE NET    an access point as wpa_supplicant's FILE here says, with addresses of NET.0/24
#   air.sh off            the radio falls silent, as at a loss of power
#   air.sh secrets        where the board's password and keys are found
here=/boot
there="busybox nsenter -t $(cat /run/air.pid 2>/dev/null) -n"

begin() {
    busybox unshare -n busybox sleep 1000000 &
    echo $! >/run/air.pid
    while ! iw phy phy1 set netns $!; do sleep 1; done
    echo "air: the radio is away"
}

on() {
    leases=/run/air.$2.leases
    touch $leases
    printf 'start %s.50\nend %s.60\ninterface wlan1\nlease_file %s\noption subnet 255.255.255.0\noption lease 600\n' \
        $2 $2 $leases >/run/air.dhcp
    $there busybox ip addr flush dev wlan1
    $there busybox ip addr add $2.1/24 dev wlan1
    $there wpa_supplicant -B -D nl80211 -i wlan1 -c $here/$1 -f /run/air.log -P /run/air.ap
    $there busybox udhcpd -f /run/air.dhcp >>/run/air.dhcp.log 2>&1 &
    echo $! >/run/air.server
}

off() {
    kill -9 $(cat /run/air.ap)
    $there busybox ip link set wlan1 down
    kill $(cat /run/air.server)
    echo "air: silence"
}

secrets() {
    stat -c 'air: mode %a of %n' /run/copepod/wifi.conf $here/copepod.yaml
    sed -n 's/^  password: //p' $here/copepod.yaml >/tmp/air.secrets
    sed -n 's/^\tpsk=//p' /run/copepod/wifi.conf >>/tmp/air.secrets
    grep -rlFf /tmp/air.secrets /run /var/lib/copepod | sed 's/^/air: found in /'
    cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ | grep -qFf /tmp/air.secrets && echo "air: found in a process"
    echo "air: that was all of $(grep -c . /tmp/air.secrets)"
}

"$@"
