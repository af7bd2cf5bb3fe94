/* SPDX-License-Identifier: MIT
 *
 * check.h: `vmenter check`: what the frame (cmd_check.c), the readers of dumps (check_*.c) and the rules' adapters
 * share.
 *
 * A format is a reader that takes what it knows out of a text and says how much that was; the format that knows most of
 * a text reads it. It makes images: each a VMCS or a VMCB, as far as the dump carries it. A kind's adapter turns an
 * image into problems, which are reported alike for both.
 */
#ifndef CLI_CHECK_H
#define CLI_CHECK_H

#include <vmenter/svm.h>
#include <vmenter/vmx.h>

#include "cli/cli.h"

enum check_kind { CHECK_VMX, CHECK_SVM };

struct check_image {
    struct check_image *next;
    enum check_kind kind;
    unsigned line;   /* where it begins, from 1 */
    unsigned fields; /* that were read */
    char title[120]; /* whose it is, in the dump's own words; may be empty */
    char says[160];  /* what the dump itself says of the entry; may be empty */
    struct vmenter_vmcs vmx;
    struct {
        struct vmcb vmcb;
        uint8_t known[sizeof(struct vmcb)]; /* 1: this byte is known */
        bool host_pages;                    /* it is known that the host's CR0.PG is 1 */
    } svm;
};

/* The images that a format has found. */
struct check_list {
    struct check_image *first, *last;
    unsigned images;
    unsigned taken; /* items of the text that were understood */
    bool failed;    /* no memory */
};
/* A new image at the end, zeroed; NULL: no memory. */
struct check_image *check_list_add(struct check_list *list, enum check_kind kind, unsigned line);

struct check_format {
    const char *name;                                        /* such as "KVM or Xen log" */
    const char *what;                                        /* a line of help */
    void (*read)(const char *text, struct check_list *list); /* the text ends with a null character */
};
extern const struct check_format check_format_own, check_format_log_vmx, check_format_log_svm;

/* A VMCB's field of that offset and size. False: all of it was known already. */
bool check_vmcb_set(struct check_image *image, unsigned offset, unsigned size, uint64_t value);

/* The line at *text, without what a log puts before it: (XEN), timestamps, host and module names, a log level. It is
 * copied, cut off at `size`; *text goes to the next. False: no line is left. */
bool check_line(const char **text, char *line, size_t size);
/* A hexadecimal number, 0x or not, that no letter or digit follows; *at goes behind it. */
bool check_hex(const char **at, uint64_t *value);

/* What to check against. */
struct check_options {
    const char *cpu, *msrs; /* model, file of MSRs; NULL */
    const char *host_mode;  /* "32", "64" or NULL */
    bool all;               /* name each rule that was not judged */
};

struct check_problem {
    const char *id, *section, *rule, *manual;
    bool judged;
    const char *field, *area;
    uint32_t where; /* encoding or offset of the field */
    uint64_t found, nearest;
    bool has_nearest;
    char lacking[48]; /* the field, or what else, without which it was not judged */
    char text[700];   /* all of it in a line */
};
struct check_verdict {
    struct check_problem *problem; /* malloc() */
    size_t problems;
    bool broken;
    char processor[100];                   /* what it was checked against */
    char outcome[200];                     /* what the processor does */
    uint64_t error, reason, qualification; /* error: VM-instruction error; reason: exit reason or exit code; 0: none */
};
/* False after a message. */
bool check_vmx(const struct check_options *o, const struct check_image *image, struct check_verdict *v);
bool check_svm(const struct check_options *o, const struct check_image *image, struct check_verdict *v);

#endif
