package draw_test

import (
	"fmt"
	"net/netip"
	"strings"

	v3 "github.com/tierwall/tierwall/apis/v3"
	"github.com/tierwall/tierwall/dataplane/reach"
)

// pods of a namespace as an end of the matrix.
func pods(namespace string, names ...string) reach.End {
	e := reach.End{Kind: reach.Workload, Namespace: namespace, About: namespace + "/" + names[0]}
	for _, n := range names {
		e.Members = append(e.Members, v3.Ref{Kind: "Pod", Namespace: namespace, Name: n})
	}
	if len(names) > 1 {
		e.About += fmt.Sprintf(" and %d more", len(names)-1)
	}
	return e
}

func nodes(names ...string) reach.End {
	e := reach.End{Kind: reach.Host, About: names[0]}
	for _, n := range names {
		e.Members = append(e.Members, v3.Ref{Kind: "Node", Name: n})
	}
	return e
}

func outside(about string, nets ...string) reach.End {
	e := reach.End{Kind: reach.Outside, About: about}
	for _, n := range nets {
		e.Nets = append(e.Nets, netip.MustParsePrefix(n))
	}
	return e
}

// matrixOf ends, by what may pass: conns gives the text from one end to another.
func matrixOf(ends []reach.End, conns func(from, to string) string) *reach.Matrix {
	m := &reach.Matrix{Ends: ends, Answers: []reach.Answer{{Conns: "none", None: true, Why: []string{"tier default: default action denies"}}}}
	seen := map[string]int{"none": 0}
	for _, from := range ends {
		var row []int
		for _, to := range ends {
			text := conns(from.About, to.About)
			k, ok := seen[text]
			if !ok {
				k = len(m.Answers)
				seen[text] = k
				m.Answers = append(m.Answers, reach.Answer{Conns: text, All: text == "all",
					Why: []string{"egress: profile kns allows", "shop/rules (NetworkPolicy): rule 0 allows " + text}})
			}
			row = append(row, k)
		}
		m.Cells = append(m.Cells, row)
	}
	return m
}

// small is a shop: an internet that comes to its front, which asks the database; operators by a bastion.
func small() *reach.Matrix {
	may := map[string]string{
		"0.0.0.0/0 but 2 networks>shop/front and 2 more": "TCP 80,443",
		"203.0.113.0/28>node-1":                          "TCP 22",
		"shop/front and 2 more>shop/api":                 "TCP 8080; UDP 5000-5010",
		"shop/api>shop/db":                               "TCP 5432",
		"shop/api>dns/coredns and 1 more":                "TCP 53; UDP 53",
		"shop/front and 2 more>dns/coredns and 1 more":   "TCP 53; UDP 53",
		"shop/api>0.0.0.0/0 but 2 networks":              "TCP 443",
		"dns/coredns and 1 more>node-1":                  "UDP 53",
	}
	return matrixOf([]reach.End{
		pods("dev", "toolbox"), pods("dns", "coredns-a", "coredns-b"), pods("shop", "api"), pods("shop", "db"), pods("shop", "front", "front-b", "front-c"),
		nodes("node-1"), outside("0.0.0.0/0 but 2 networks", "0.0.0.0/5", "8.0.0.0/7"), outside("203.0.113.0/28", "203.0.113.0/28"),
	}, func(from, to string) string {
		switch text := may[strings.ReplaceAll(from+">"+to, "coredns-a", "coredns")]; {
		case text != "":
			return text
		case from == "node-1", from == "dev/toolbox" && !strings.HasPrefix(to, "shop/db"), to == "dev/toolbox":
			return "all"
		}
		return "none"
	})
}

// big has n ends in namespaces of ten, each of which talks within and with the next.
func big(n int) *reach.Matrix {
	var ends []reach.End
	at := map[string]int{}
	for i := range n {
		e := pods(fmt.Sprintf("team-%03d", i/10), fmt.Sprintf("service-%d", i%10))
		at[e.About] = i
		ends = append(ends, e)
	}
	return matrixOf(ends, func(from, to string) string {
		i, j := at[from], at[to]
		switch {
		case i/10 == j/10:
			return "all"
		case (i+1)*7%(j+3) == 0:
			return fmt.Sprintf("TCP %d", 8000+j%50)
		case j%10 == 0:
			return "TCP 80,443; ICMP"
		}
		return "none"
	})
}

// hostile is what a name would be that its writer means ill with.
const hostile = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>\"'`]]>--> \\n\u2028\u202e&amp;${1}{{.}};%%{init: {}}%%\x1b[2J\x00\n#quot;"

func evil() *reach.Matrix {
	m := matrixOf([]reach.End{pods(hostile, hostile), pods("b", "b"), nodes(hostile), outside(hostile, "192.0.2.0/24")}, func(from, _ string) string {
		if from == "b/b" {
			return "none"
		}
		return hostile
	})
	for i := range m.Answers {
		m.Answers[i].Why = []string{hostile}
	}
	return m
}
