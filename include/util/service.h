/* What a service manager is told (sd_notify(3)): "READY=1", "STOPPING=1", "STATUS=...",
 * one a line.  Nothing happens where nobody asked for it by NOTIFY_SOCKET.  Any thread;
 * never waits. */
#pragma once

void service_notify(const char *state);
