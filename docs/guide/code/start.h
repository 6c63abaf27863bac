/* What the programs of this guide share. */
#ifndef GUIDE_START_H
#define GUIDE_START_H

#include <netserver.h>

#include <signal.h>
#include <stdio.h>

/* Says why a call failed. Returns the exit status of the program. */
static inline int failed(ns_error *err) {
    fprintf(stderr, "%s\n", ns_error_message(err));
    ns_error_free(err);
    return 1;
}

/* Blocks the signals in this thread, and so in all that the server makes: sigwait(3) gets them. */
static inline sigset_t block_signals(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    return set;
}

/* Starts the server in the background, and says where it listens. */
static inline int start(ns_server *server) {
    char address[128];
    ns_error *err;
    if (ns_server_start(server, NS_START_BACKGROUND, &err) != NS_OK)
        return failed(err);
    ns_server_address(server, address, sizeof address);
    printf("listening on %s\n", address);
    return fflush(stdout);
}

#endif
