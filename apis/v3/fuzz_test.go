package v3_test

import (
	"reflect"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/intstr"

	v3 "github.com/tierwall/tierwall/apis/v3"
)

// FuzzSettings puts a text into every field of a FelixConfiguration, of a KubeControllersConfiguration and of a rule that holds one, and
// into every variable: what is read is read, and the rest is refused.
func FuzzSettings(f *testing.F) {
	for _, text := range []string{"", "Drop", "tcp:22", "udp:0.0.0.0/0:53,tcp:[::1/128]:22", "10/second", "1m30s", "0xffff0000", "/^eth[0-9]+$/,cali", "10.0.0.0/8",
		"1:65535", "http", "all()", "a in {'b'}", "Enabled"} {
		f.Add(text)
	}
	f.Fuzz(func(_ *testing.T, text string) {
		for _, o := range []v3.Object{&v3.FelixConfiguration{}, &v3.KubeControllersConfiguration{}, &v3.GlobalNetworkPolicy{}, &v3.HostEndpoint{}, &v3.Tier{}} {
			fill(reflect.ValueOf(o).Elem(), text, 0)
			v3.Default(o)
			_ = v3.Validate(o)
		}
		_ = (&v3.FelixConfigurationSpec{}).FromEnv(func(string) (string, bool) { return text, true })
		_, _ = v3.ParseFailsafePorts(text)
		_, _, _ = v3.ParseRateLimit(text)
		_, _ = v3.ParseInterfaceCIDR(text)
		_, _ = v3.ParseProtocol(intstr.FromString(text))
		_, _ = v3.ParsePort(intstr.FromString(text))
	})
}

// fill every text, with one element in every list, map and pointer.
func fill(v reflect.Value, text string, deep int) {
	if deep > 12 || !v.CanSet() {
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), text, deep+1)
	case reflect.Slice:
		if v.Type().Elem().Kind() != reflect.Uint8 {
			v.Set(reflect.MakeSlice(v.Type(), 1, 1))
			fill(v.Index(0), text, deep+1)
		}
	case reflect.Map:
		if v.Type().Key().Kind() == reflect.String && v.Type().Elem().Kind() == reflect.String {
			v.Set(reflect.MakeMap(v.Type()))
			v.SetMapIndex(reflect.ValueOf(strings.Clone(text)).Convert(v.Type().Key()), reflect.ValueOf(text).Convert(v.Type().Elem()))
		}
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[intstr.IntOrString]() {
			v.Set(reflect.ValueOf(intstr.Parse(text)))
			return
		}
		for i := range v.NumField() {
			fill(v.Field(i), text, deep+1)
		}
	}
}
