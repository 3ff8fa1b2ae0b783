package law

import (
	"go/token"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
)

const root = "../.."

func TestTheHouseKeepsItsLaws(t *testing.T) {
	packages, err := Load(root)
	if err != nil {
		t.Fatal(err)
	}
	if len(packages) < 20 {
		t.Fatalf("only %d packages were found below %s", len(packages), root)
	}
	for _, law := range Laws() {
		t.Run(law.Name, func(t *testing.T) {
			for _, p := range packages {
				for _, v := range law.Check(p) {
					t.Error(v)
				}
			}
		})
	}
}

// TestEveryLawCanFail runs each law over testdata/<name>.txtar, whose files
// break it once each where a line says "// broken", and nowhere else.
func TestEveryLawCanFail(t *testing.T) {
	for _, law := range Laws() {
		t.Run(law.Name, func(t *testing.T) {
			planted := filepath.Join("testdata", strings.ReplaceAll(law.Name, " ", "-")+".txtar")
			archive, err := txtar.ParseFile(planted)
			if err != nil {
				t.Fatal(err)
			}
			byDir := map[string]*Package{}
			fset := token.NewFileSet()
			want := 0
			for _, f := range archive.Files {
				src := strings.ReplaceAll(string(f.Data), "// 600 lines\n", strings.Repeat("//\n", 600))
				want += strings.Count(src, "// broken")
				if err := add(byDir, fset, f.Name, []byte(src)); err != nil {
					t.Fatal(err)
				}
			}
			var found []Violation
			for _, p := range byDir {
				found = append(found, law.Check(p)...)
			}
			if want == 0 || len(found) != want {
				t.Errorf("%d violations are planted and %d were found: %v", want, len(found), found)
			}
		})
	}
}

// TestNothingPlantedIsLeftOver: a planted violation of no law proves nothing.
func TestNothingPlantedIsLeftOver(t *testing.T) {
	names := map[string]bool{}
	for _, law := range Laws() {
		names[strings.ReplaceAll(law.Name, " ", "-")+".txtar"] = true
	}
	entries, err := os.ReadDir("testdata")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !names[e.Name()] {
			t.Errorf("testdata/%s belongs to no law", e.Name())
		}
	}
}
