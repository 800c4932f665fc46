package images

// Component is one image of a release.
type Component struct {
	Name        string // of the image, within its repository
	Description string
	Programs    []Program // the first is what the container runs
	User        string    // uid:gid
}

// Program is a program of ours in an image.
type Program struct {
	Package string // import path, relative to the module: ./ztunnel/cmd/ztunnel
	Path    string // in the image
}

// nobody is the uid and gid of what needs no privilege. It is a number, because
// a runtime that was told to refuse root cannot look up names.
const nobody = "65532:65532"

// Components are the images of a release.
func Components() []Component {
	return []Component{
		{
			Name:        "istiod-lite",
			Description: "control plane of the ambit mesh",
			Programs:    []Program{{"./istiod-lite/cmd/istiod-lite", "/istiod-lite"}},
			User:        nobody,
		},
		{
			Name:        "ztunnel",
			Description: "node proxy of the ambit mesh",
			Programs:    []Program{{"./ztunnel/cmd/ztunnel", "/ztunnel"}},
			User:        "0:1337", // it enters the namespaces of pods
		},
		{
			Name:        "waypoint",
			Description: "HTTP proxy of a namespace or service of the ambit mesh",
			Programs:    []Program{{"./waypoint/cmd/waypoint", "/waypoint"}},
			User:        nobody,
		},
		{
			Name:        "cni",
			Description: "CNI plugin and node agent of the ambit mesh",
			Programs: []Program{
				{"./cni/cmd/ambit-cni-agent", "/usr/local/bin/ambit-cni-agent"},
				{"./cni/cmd/ambit-cni", "/usr/local/bin/ambit-cni"},
			},
			User: "0:0", // it writes where the container runtime looks, and rules into the namespaces of pods
		},
	}
}
