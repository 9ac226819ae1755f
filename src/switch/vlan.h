/* Tags of virtual LANs (IEEE 802.1Q, 9.6).  Inside of the switch a frame has none, and
 * says in `vlan` where it belongs; a port puts it on where it is a trunk for that one. A
 * tag of VLAN 0 only has a priority, which is lost. */
#pragma once

#include "src/switch/switch.h"

/* Takes the tag off, if there is one, and sets f->vlan.  False: this port does not send
 * into that VLAN. */
bool vlan_receive(const Port *from, Frame *f);

/* Whether frames of that VLAN go out at the port, and whether they then have a tag. */
bool vlan_is_member(const Port *to, uint16_t vlan);
bool vlan_is_tagged(const Port *to, uint16_t vlan);

/* Puts the tag on (into the room before the frame), and takes it off again. */
void vlan_push(Frame *f);
void vlan_pop(Frame *f);

/* A port's trunk: a bitmap, from an array of numbers; NULL: none. An empty array is none,
 * too. */
bool vlan_trunk_parse(const json_t *numbers, uint8_t **ret, GError **error);
json_t *vlan_trunk_json(const uint8_t *trunk); /* a new reference */
