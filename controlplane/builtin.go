package controlplane

import (
	"github.com/vigil-ml/vigil/controlplane/export"
	"github.com/vigil-ml/vigil/controlplane/export/elastic"
	"github.com/vigil-ml/vigil/controlplane/export/otlp"
	"github.com/vigil-ml/vigil/internal/plug"
)

// Exporters is the catalogue of the kinds of exporters. A new kind is one line
// here.
func Exporters() plug.Catalog[export.Exporter, export.Deps] {
	return plug.Catalog[export.Exporter, export.Deps]{
		elastic.Kind,
		otlp.Kind,
	}
}
