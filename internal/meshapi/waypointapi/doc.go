// Package waypointapi is what a waypoint does with requests: the resources of the types
// ambit.waypoint.v1, as they go over delta xDS. It is generated from waypoint.proto and
// authentication.proto, which are of this project.
package waypointapi
