# Figures of all runs to medians: tables for a reader, JSON for a program. Lines: part contender name value unit-or-checksum.
# Status 1 when contenders disagree about a checksum.
{
    key = $1 SUBSEP $2 SUBSEP $3
    value[key, ++count[key]] = $4
    unit[$1, $3] = $5
    if ($1 == "workload") {
        name = $3
        sub(/^[a-z]*\./, "", name)
        if (!(name in sum)) sum[name] = $5
        else if (sum[name] != $5) { printf "checksum of %s: %s on %s, %s before\n", name, $5, $2, sum[name]; bad = 1 }
    }
    if (!(($1, $3) in seen)) { seen[$1, $3]; name_of[$1, ++names[$1]] = $3 }
    if (!(($1, $2) in met)) { met[$1, $2]; contender[$1, ++contenders[$1]] = $2 }
}
function median(key,   n, i, j, t) {
    n = count[key]
    if (!n) return ""
    for (i = 1; i < n; i++)
        for (j = i + 1; j <= n; j++)
            if (value[key, j] < value[key, i]) { t = value[key, i]; value[key, i] = value[key, j]; value[key, j] = t }
    return value[key, int((n + 1) / 2)]
}
function m(part, who, what) {
    if (!((part, who, what) in done)) { done[part, who, what]; of[part, who, what] = median(part SUBSEP who SUBSEP what) }
    return of[part, who, what]
}
function to_json(part,   i, j, v) {
    for (i = 1; i <= contenders[part]; i++)
        for (j = 1; j <= names[part]; j++)
            if ((v = m(part, contender[part, i], name_of[part, j])) != "")
                out = out sprintf("%s\n  \"%s.%s.%s\": %s", out == "" ? "" : ",", part, contender[part, i], name_of[part, j], v)
}
END {
    if (names["workload"]) {
        printf "\nWorkloads, seconds of CPU time (in brackets: how many times as long as ours)\n  %-18s", ""
        for (i = 1; i <= contenders["workload"]; i++) printf "%18s", contender["workload", i]
        print ""
        for (j = 1; j <= names["workload"]; j++) {
            what = name_of["workload", j]
            printf "  %-18s", what
            ours = m("workload", "ours", what)
            for (i = 1; i <= contenders["workload"]; i++) {
                who = contender["workload", i]
                v = m("workload", who, what)
                if (v == "") printf "%18s", "-"
                else if (who == "ours" || ours + 0 == 0) printf "%10.4f        ", v
                else {
                    printf "%10.4f (%5.2f)", v, v / ours
                    if (v > 0 && what !~ /roundtrip/) { log_sum[who] += log(v / ours); logs[who]++ }
                }
            }
            print ""
        }
        printf "  %-18s", "geometric mean"
        for (i = 1; i <= contenders["workload"]; i++)
            printf "%18s", logs[contender["workload", i]] ? sprintf("(%5.2f)", exp(log_sum[contender["workload", i]] / logs[contender["workload", i]])) : ""
        print ""
    }
    if (names["boot"]) {
        print "\nLinux boot to power-off, seconds"
        ours = m("boot", "vmx", "linux")
        for (i = 1; i <= contenders["boot"]; i++) {
            v = m("boot", contender["boot", i], "linux")
            printf "  %-8s %8.2f   %5.2f of ours under VMX\n", contender["boot", i], v, ours ? v / ours : 0
        }
    }
    if (names["hosted"]) {
        print "\nHosted"
        for (j = 1; j <= names["hosted"]; j++)
            printf "  %-28s %10s %s\n", name_of["hosted", j], m("hosted", "ours", name_of["hosted", j]), unit["hosted", name_of["hosted", j]]
    }
    to_json("workload"); to_json("boot"); to_json("hosted")
    printf "{%s\n}\n", out >json
    exit bad
}
