/* How a monitor joins a network: over NETWORK_PORT, a stream socket.
 *
 * The monitor says who it is, one JSON object on a line:
 *
 *     {"hutch-port": 1, "vm": "web", "nic": "net0", "instance": "<random, of this start
 * of the VM>", "mac": "02:..", "ip": ["10.5.0.7"], "groups": ["front"], "queues": 1,
 *      "vlan": 0, "trunk": [10, 20], "trust": false, "offloads": 15,
 *      "firewall": "<text of rules>"}
 *
 * all but the first, nic, instance and mac may be left out.  The switch answers with one
 * line,
 *
 *     {"return": {"port": 3, "mtu": 1500, "queues": 1, "link": true}}
 *     {"error": {"class": "GenericError", "desc": "..."}}
 *
 * and the first with descriptors (SCM_RIGHTS): the memory of the rings, then for each
 * queue the writing end of a pipe that wakes the switch and the reading end of one that
 * wakes the monitor, eight bytes at a time, as of an eventfd.  After that either side may
 * send lines at any time:
 *
 *     monitor: {"offloads": N}   what the guest takes now, NET_OFFLOAD_*
 *              {"link": false}   the cable was pulled at the VM's side
 *              {"announce": true}  the VM was restored or moved: tell the others
 *     switch:  {"link": false}   the cable was cut by `hutch net impair` or `set`
 *              {"leave": true}   it was disconnected by its user: not to come again
 *
 * Hanging up leaves the network.  Frames in the rings have a VnetHdr of 12 bytes first.
 */
#pragma once

enum {
    PORT_VERSION = 1,
    PORT_MAX_LINE = 1 << 20, /* rules are in it */
    PORT_MAX_QUEUES = 8,
};
