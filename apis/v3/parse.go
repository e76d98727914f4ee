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
	text := p.String()
	switch from, to, isRange := strings.Cut(text, ":"); {
	case isRange && isNumber(from) && isNumber(to):
		return portRange(text, from, to)
	case isRange:
		return Port{}, fmt.Errorf("%q is not a range of ports: expected min:max", text)
	case isNumber(text):
		return portRange(text, text, text)
	case !portName.MatchString(text):
		return Port{}, fmt.Errorf("%q is no port: expected a number from 1 to 65535, min:max, or a name of letters, digits, '_', '.' and '-'", text)
	}
	return Port{Name: text}, nil
}

// isNumber tells a number from a name: a name of digits alone would be taken for one. A sign is part of a number, so that -1 is
// a number out of range and no name.
func isNumber(text string) bool {
	digits := strings.TrimPrefix(text, "-")
	return digits != "" && strings.Trim(digits, "0123456789") == ""
}

func portRange(text, from, to string) (Port, error) {
	lo, errLo := strconv.ParseUint(from, 10, 16)
	hi, errHi := strconv.ParseUint(to, 10, 16)
	switch {
	case errLo != nil || errHi != nil || lo == 0 || hi == 0:
		return Port{}, fmt.Errorf("%s is no port: port numbers must be between 1 and 65535", text)
	case lo > hi:
		return Port{}, fmt.Errorf("minimum port number (%d) is greater than maximum port number (%d) in port range", lo, hi)
	}
	return Port{Min: uint16(lo), Max: uint16(hi)}, nil
}
