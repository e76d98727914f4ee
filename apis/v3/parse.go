package v3

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/intstr"
)

// protocols are the names of contract §3.1, in exactly this case.
var protocols = map[string]uint8{"TCP": 6, "UDP": 17, "ICMP": 1, "ICMPv6": 58, "SCTP": 132, "UDPLite": 136}

// ParseProtocol reads a protocol's name or number and gives its number, 1 to 255.
func ParseProtocol(p intstr.IntOrString) (uint8, error) {
	if n, ok := protocols[p.StrVal]; ok && p.Type == intstr.String {
		return n, nil
	}
	n := int(p.IntVal)
	if p.Type == intstr.String {
		var err error
		if n, err = strconv.Atoi(p.StrVal); err != nil || strconv.Itoa(n) != p.StrVal {
			return 0, fmt.Errorf("%q is none of TCP, UDP, ICMP, ICMPv6, SCTP and UDPLite and no number from 1 to 255", p.StrVal)
		}
	}
	if n < 1 || n > 255 {
		return 0, fmt.Errorf("%d is not a protocol number: expected 1 to 255", n)
	}
	return uint8(n), nil
}

// Port is a range of port numbers, inclusive at both ends, or a name.
type Port struct {
	Name     string
	Min, Max uint16
}

var portName = regexp.MustCompile(`^[a-zA-Z0-9_.-]{1,128}$`)

// ParsePort reads a port: a number, "min:max", or a name (contract §3.2).
func ParsePort(p intstr.IntOrString) (Port, error) {
	if p.Type == intstr.Int {
		return portRange(int(p.IntVal), int(p.IntVal))
	}
	from, to, isRange := strings.Cut(p.StrVal, ":")
	if !isRange {
		to = from
	}
	lo, errLo := strconv.Atoi(from)
	hi, errHi := strconv.Atoi(to)
	switch {
	case errLo == nil && errHi == nil:
		return portRange(lo, hi)
	case isRange:
		return Port{}, fmt.Errorf("%q is not a range of ports: expected min:max", p.StrVal)
	case !portName.MatchString(p.StrVal):
		return Port{}, fmt.Errorf("%q is no port: expected a number from 1 to 65535, min:max, or a name of letters, digits, '_', '.' and '-'", p.StrVal)
	}
	return Port{Name: p.StrVal}, nil
}

func portRange(lo, hi int) (Port, error) {
	switch {
	case lo < 1 || hi < 1 || lo > 65535 || hi > 65535:
		return Port{}, fmt.Errorf("port range %d:%d is invalid: port numbers must be between 1 and 65535", lo, hi)
	case lo > hi:
		return Port{}, fmt.Errorf("minimum port number (%d) is greater than maximum port number (%d) in port range", lo, hi)
	}
	return Port{Min: uint16(lo), Max: uint16(hi)}, nil
}
