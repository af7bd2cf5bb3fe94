# First file: probe.c, whose T and M lines say what is expected. Second: objdump's output.
function complain(text) { printf "native: %s: %s: %s\n", what, fn, text; bad = 1 }
FNR == NR {
    if (match($0, /^[TM]\([a-z0-9_]+, "[a-z0-9]+"/)) {
        kind = substr($0, 1, 1)
        split($0, part, "\"")
        id = part[1]
        sub(/^[TM]\(/, "", id)
        sub(/,.*/, "", id)
        key = tolower(kind) "_" id
        mnemonic[key] = part[2]
        operands[key] = part[4]
        gsub(/\\\\/, "\\", operands[key])
    }
    next
}
/^[0-9a-f]+ <.*>:$/ {
    finish()
    fn = $2
    gsub(/[<>:]/, "", fn)
    count = 0; pushes = 0; red = 0; calls = 0; wrong = ""; order = ""; saves = 0; lahf = 0; deep = 0
    next
}
fn != "" && /^ *[0-9a-f]+:\t/ {
    line = $0
    sub(/^ *[0-9a-f]+:\t/, "", line)
    sub(/ *#.*/, "", line)
    sub(/^(rep|lock|data16|repz|cs|ds) +/, "", line)
    m = line; sub(/[ \t].*/, "", m)
    ops = line; if (!sub(/^[^ \t]+[ \t]+/, "", ops)) ops = ""
    gsub(/[ \t]+$/, "", ops)
    if (m ~ /^call/) calls++
    if (m ~ /^(lahf|sahf)$/) lahf++
    if (m ~ /^pushf/ || m ~ /^popf/) pushes++
    if (m ~ /^push/ && ops ~ /^%(rbx|r12|r13|r14|r15)$/) saves++
    if (m == "lea" && ops ~ /^-0x88\(%rsp\),%rsp$/) deep++
    if (ops ~ /-0x[0-9a-f]+\(%rsp\)/ && m != "lea") red++
    if (ops ~ /^\$0x[123],.*(\(%rip\)|\(%rax\)|\(%rcx\)|\(%rdx\)|\(%rbx\)|\(%r[a-z0-9]+\)|0x0|\$0x0)$/ && m ~ /^movl/) order = order substr(ops, 4, 1)
    e = mnemonic[fn]
    if (e != "" && (m == e || m == e "q" || m == e "l" || m == e "w" || m == e "b") && (e != "mov" && e != "add" || special(ops))) {
        count++
        order = order "X"
        if (level != 0 && fn ~ /^t_/ && ops !~ "^" operands[fn] "$")
            wrong = m " " ops
    }
    next
}
# "mov" alone says nothing: the control, debug or segment register does.
function special(o) { return o ~ /%(cr|db|dr)[0-9]|%[cdefgs]s:|%[cdes]s,|,%[cdes]s/ }
function finish() {
    if (fn == "" || !(fn in mnemonic)) return
    seen[fn] = 1
    want = fn ~ /^m_/ ? 2 : 1
    if (level == 0 && fn ~ /^t_(rdr7|wdr6)$/) want = 8 # the number is no constant yet: one of eight is executed
    gsub(/33+/, "3", order) # a tail that was duplicated
    if (count != want) complain(count " times " mnemonic[fn] ", not " want)
    if (wrong != "") complain("operands: " wrong ", not " operands[fn])
    if (calls) complain("calls a function")
    if (lahf) complain("flags by LAHF")
    if (pushes && mnemonic[fn] !~ /^(pushf|popf)$/) complain("flags by PUSHF or POPF")
    if (pushes && red) complain("PUSHF or POPF over the red zone")
    if (fn ~ /^m_/ && order != "1X2X3") complain("memory accesses moved: " order)
    if (mnemonic[fn] == "vmrun" && (saves < 5 || deep != want)) complain("VMRUN: a callee-saved register is not kept")
}
END {
    finish()
    for (f in mnemonic) if (!seen[f]) { fn = f; complain("is missing") }
    exit bad
}
