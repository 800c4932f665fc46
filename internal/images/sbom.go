package images

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"fmt"
	"os"
	"path"
	"runtime/debug"
	"slices"
	"strings"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

// SBOM lists what programs were made of, in CycloneDX JSON: the modules that
// the linker wrote into them, and the Go release. name and version are those of
// the image. Programs of ours carry one list each; what several share stands
// once.
func SBOM(name, version string, programs []string) ([]byte, error) {
	bom := cdx.NewBOM()
	bom.Metadata = &cdx.Metadata{Component: &cdx.Component{
		BOMRef: "image:" + name, Type: cdx.ComponentTypeContainer, Name: name, Version: version,
	}}
	var components []cdx.Component
	var edges []cdx.Dependency
	known := map[string]bool{}
	image := cdx.Dependency{Ref: "image:" + name, Dependencies: &[]string{}}
	all := sha256.New()
	for _, file := range programs {
		program, modules, err := readProgram(file, version)
		if err != nil {
			return nil, err
		}
		edge := cdx.Dependency{Ref: program.BOMRef, Dependencies: &[]string{}}
		components = append(components, program)
		*image.Dependencies = append(*image.Dependencies, program.BOMRef)
		all.Write([]byte((*program.Hashes)[0].Value))
		for _, m := range modules {
			*edge.Dependencies = append(*edge.Dependencies, m.BOMRef)
			if !known[m.BOMRef] {
				known[m.BOMRef] = true
				components = append(components, m)
			}
		}
		edges = append(edges, edge)
	}
	slices.SortFunc(components, func(a, b cdx.Component) int { return cmp.Compare(a.BOMRef, b.BOMRef) })
	edges = append([]cdx.Dependency{image}, edges...)
	bom.Components, bom.Dependencies = &components, &edges
	bom.SerialNumber = serialFrom(all.Sum(nil))
	var out bytes.Buffer
	if err := cdx.NewBOMEncoder(&out, cdx.BOMFileFormatJSON).SetPretty(true).Encode(bom); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// readProgram describes the program in file and the modules in it.
func readProgram(file, version string) (program cdx.Component, modules []cdx.Component, err error) {
	info, err := buildinfo.ReadFile(file)
	if err != nil {
		return program, nil, fmt.Errorf("what %s was made of: %w", file, err)
	}
	content, err := os.ReadFile(file)
	if err != nil {
		return program, nil, err
	}
	program = cdx.Component{
		BOMRef: "program:" + path.Base(info.Path), Type: cdx.ComponentTypeApplication,
		Name: path.Base(info.Path), Version: version,
		PackageURL: "pkg:golang/" + info.Main.Path + "@" + version,
		Hashes:     &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: digestOf(content).Hex}},
	}
	modules = []cdx.Component{module("stdlib", strings.TrimPrefix(info.GoVersion, "go"))}
	for _, m := range info.Deps {
		modules = append(modules, moduleOf(m))
	}
	return program, modules, nil
}

// moduleOf describes m, or what took its place.
func moduleOf(m *debug.Module) cdx.Component {
	if m.Replace != nil {
		m = m.Replace
	}
	c := module(m.Path, m.Version)
	if m.Sum != "" {
		c.Properties = &[]cdx.Property{{Name: "go:sum", Value: m.Sum}}
	}
	return c
}

// module describes a Go module under the package URL that scanners look for.
func module(name, version string) cdx.Component {
	purl := "pkg:golang/" + name + "@" + version
	return cdx.Component{BOMRef: purl, Type: cdx.ComponentTypeLibrary, Name: name, Version: version, PackageURL: purl}
}

// serialFrom makes the serial number of a bill out of what it is about, so that
// the same programs have the same. Source: RFC 9562, section 5.8 (UUID version 8).
func serialFrom(sum []byte) string {
	id := slices.Clone(sum[:16])
	id[6] = id[6]&0x0f | 0x80
	id[8] = id[8]&0x3f | 0x80
	h := hex.EncodeToString(id)
	return "urn:uuid:" + strings.Join([]string{h[:8], h[8:12], h[12:16], h[16:20], h[20:]}, "-")
}
