/* The header and glibc's <arpa/nameser.h>, which owns many ns_ names, together. */
#define _DEFAULT_SOURCE
#include <arpa/nameser.h>

#include "check.h"

/* F2: Names of both are used side by side. */
static void both_headers(void)
{
    CHECK_IS(ns_t_a, 1);
    CHECK_IS(NS_DEFAULTPORT, 53);
    CHECK_IS(NS_OK, 0);
    CHECK(ns_version_number() == NS_VERSION_NUMBER);
}

int main(void)
{
    RUN(both_headers);
    return 0;
}
