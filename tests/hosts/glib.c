/* A host with GLib. `g_unix_signal_add` would make a thread, so a signal handler stops the
 * server. */
#define _POSIX_C_SOURCE 200809L
#include "host.h"

#include <glib-unix.h>

static gboolean on_readable(gint fd, GIOCondition condition, gpointer main_loop)
{
    (void)fd, (void)condition;
    if (turn())
        return G_SOURCE_CONTINUE;
    g_main_loop_quit((GMainLoop *)main_loop);
    return G_SOURCE_REMOVE;
}

int main(int argc, char **argv)
{
    GMainLoop *main_loop = g_main_loop_new(NULL, FALSE);
    g_unix_fd_add(start(argc, argv), G_IO_IN, on_readable, main_loop);
    stop_by_signal();
    g_main_loop_run(main_loop);
    g_main_loop_unref(main_loop);
    return end();
}
