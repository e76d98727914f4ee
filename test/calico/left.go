package calico

// Left is a script of sh that leaves in a machine's kernel what calico-node leaves, and kube-router and Azure NPM, by the commands of iptables of
// both kinds, ipset, nft and ip. As there, what goes on enforcing lets by the pods that were known, and no other.
//
//	BACKENDS   of iptables: legacy and nft by default
//	ADDRESS    of the machine, and NEIGHBOUR, which it can reach: of 192.0.2.0/24 by default
//	PODS       how the names of pods' interfaces begin: cali by default
//	KNOWN      which of them were known: none by default
const Left = `
: ${BACKENDS:=legacy nft} ${ADDRESS:=192.0.2.1} ${NEIGHBOUR:=192.0.2.2} ${PODS:=cali} ${KNOWN:=}
known=$(for i in $KNOWN; do echo "-A cali-from-wl-dispatch -i $i -j RETURN"; done)
ipset create cali40s:abc hash:net; ipset add cali40s:abc 10.1.0.0/16
ipset create cali60s:abc hash:net family inet6
ipset create cali40masq-ipam-pools hash:net
ipset create KUBE-SRC-ABC hash:ip; ipset create inet6:KUBE-DST-ABC hash:ip family inet6
ipset create azure-npm-1 hash:net; ipset create azure-npm-2 list:set; ipset add azure-npm-2 azure-npm-1
for v in $BACKENDS; do for p in iptables ip6tables; do
	set=cali40s:abc; src=KUBE-SRC-ABC; [ $p = iptables ] || { set=cali60s:abc; src=inet6:KUBE-DST-ABC; }
	$p-$v-restore --noflush <<-END
		*filter
		:cali-FORWARD - [0:0]
		:cali-INPUT - [0:0]
		:cali-from-wl-dispatch - [0:0]
		:cali-fw-cali1 - [0:0]
		:cali-pi-_abc - [0:0]
		:felix-INPUT - [0:0]
		:KUBE-ROUTER-FORWARD - [0:0]
		:KUBE-POD-FW-ABC - [0:0]
		:KUBE-NWPLCY-ABC - [0:0]
		:AZURE-NPM - [0:0]
		:AZURE-NPM-INGRESS - [0:0]
		-I INPUT -m comment --comment "cali:Cz_u1IQiXIMmKD4c" -j cali-INPUT
		-A INPUT -j felix-INPUT
		-I FORWARD -m comment --comment "cali:wUHhoiAYhphO9Mso" -j cali-FORWARD
		-I FORWARD 2 -m comment --comment "kube-router netpol - TEMCG2JMHZYE7H7T" -j KUBE-ROUTER-FORWARD
		-A FORWARD -m comment --comment "cali:S93hcgKJrXEqnTfs" -m comment --comment "Policy \"explicitly\" accepted packet." -m mark --mark 0x10000/0x10000 -j ACCEPT
		-A FORWARD -m comment --comment "cali:mp77cMpurHhyjLrM" -j MARK --set-xmark 0x10000/0x10000
		-A FORWARD -m comment --comment "rule to explicitly ACCEPT traffic that comply to network policies" -m mark --mark 0x20000/0x20000 -j ACCEPT
		-A FORWARD -m conntrack --ctstate NEW -j AZURE-NPM
		-A cali-FORWARD -i $PODS+ -j cali-from-wl-dispatch
		-A cali-from-wl-dispatch -i cali1 -g cali-fw-cali1
		$known
		-A cali-from-wl-dispatch -m comment --comment "cali:abc" -m comment --comment "Unknown interface" -j DROP
		-A cali-fw-cali1 -m set --match-set $set src -j cali-pi-_abc
		-A cali-fw-cali1 -j DROP
		-A KUBE-ROUTER-FORWARD -i cali1 -j KUBE-POD-FW-ABC
		-A KUBE-POD-FW-ABC -j KUBE-NWPLCY-ABC
		-A KUBE-NWPLCY-ABC -m set --match-set $src src -j MARK --set-xmark 0x10000/0x10000
		-A KUBE-POD-FW-ABC -j REJECT
		-A AZURE-NPM -j AZURE-NPM-INGRESS
		COMMIT
		*nat
		:cali-POSTROUTING - [0:0]
		:cali-nat-outgoing - [0:0]
		-I POSTROUTING -m comment --comment "cali:O3lYWMrLQYEMJtB5" -j cali-POSTROUTING
		-A cali-POSTROUTING -j cali-nat-outgoing
		COMMIT
		*mangle
		:cali-PREROUTING - [0:0]
		:cali-POSTROUTING - [0:0]
		-A PREROUTING -m comment --comment "cali:6gwbT8clXdHdC1b1" -j cali-PREROUTING
		-A POSTROUTING -j cali-POSTROUTING
		COMMIT
		*raw
		:cali-PREROUTING - [0:0]
		-A PREROUTING -m comment --comment "cali:XFX5xbM8B9qR10JG" -j cali-PREROUTING
		COMMIT
	END
done; done
case $BACKENDS in *legacy*) iptables-legacy -A cali-fw-cali1 -m set --match-set azure-npm-2 src -j DROP;; esac
iptables-nft -t nat -A cali-nat-outgoing -m set --match-set cali40masq-ipam-pools src -j MASQUERADE
nft -f - <<END
table ip calico {
	set cali40s-x { type ipv4_addr; flags interval; elements = { 10.1.0.0/16 }; }
	set cali40masq-ipam-pools { type ipv4_addr; flags interval; }
	map filter-cali-from-wl-dispatch { type ifname : verdict; elements = { "cali1" : goto filter-cali-fw-cali1 }; }
	chain filter-cali-fw-cali1 { ip saddr @cali40s-x accept; drop; }
	chain filter-cali-FORWARD { $(for i in $KNOWN; do echo "iifname $i return;"; done) iifname vmap @filter-cali-from-wl-dispatch; drop comment "cali:x; Unknown interface"; }
	chain filter-FORWARD { type filter hook forward priority 0; iifname "$PODS*" jump filter-cali-FORWARD; }
	chain nat-cali-nat-outgoing { ip saddr @cali40masq-ipam-pools masquerade; }
	chain nat-POSTROUTING { type nat hook postrouting priority 110; jump nat-cali-nat-outgoing; }
}
table ip6 calico { chain raw-PREROUTING { type filter hook prerouting priority -300; }; }
table arp calico-arp { chain filter-OUTPUT { type filter hook output priority 0; }; }
END
ip link add vxlan.calico address 66:00:00:00:00:01 type vxlan id 4096 dstport 4790 local $ADDRESS; ip link set vxlan.calico up
ip route add blackhole 10.1.1.0/26 proto 80
ip route add 10.1.2.0/26 via $NEIGHBOUR proto 80
ip route add 10.1.3.0/26 via $NEIGHBOUR dev vxlan.calico proto 80 onlink
ip rule add not fwmark 0x100000/0x100000 lookup 1 priority 99
ip route add throw 10.1.4.0/26 proto 80 table 1
ip -6 rule add not fwmark 0x100000/0x100000 lookup 1 priority 99
`

// LeftFiles are Calico's state and logs below $ROOT, LeftPlugin its CNI plugin with its configuration.
const (
	LeftFiles = `
mkdir -p $ROOT/run/calico $ROOT/var/log/calico/cni $ROOT/var/lib/calico
echo n1 >$ROOT/var/lib/calico/nodename; echo log >$ROOT/var/log/calico/cni/cni.log
`
	LeftPlugin = `
mkdir -p $ROOT/etc/cni/net.d $ROOT/opt/cni/bin
echo '{"plugins":[{"type":"calico"}]}' >$ROOT/etc/cni/net.d/10-calico.conflist; echo secret >$ROOT/etc/cni/net.d/calico-kubeconfig
echo plugin >$ROOT/opt/cni/bin/calico; echo ipam >$ROOT/opt/cni/bin/calico-ipam
`
)
