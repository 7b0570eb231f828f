package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"
)

// A mutant is one way in which a package is broken.
type mutant struct {
	id         int
	file       string
	line       int
	kind, code string
	text       string // the file, where it is compiled by itself; else isMutant turns it on
}

func (m mutant) String() string { return fmt.Sprintf("%s:%d: %s: %s", m.file, m.line, m.kind, m.code) }

// A breaker writes files in which each condition can be broken by its number.
type breaker struct {
	mutants []mutant
	files   map[string]string // text by name
	helpers map[string]string // the name of the package, by that of its helper

	name    string // of the file being written, as are the following
	src     string
	fset    *token.FileSet
	whole   map[ast.Expr]bool // conditions of if and case: never and always
	loop    map[ast.Expr]bool // conditions of for: never
	covered map[ast.Expr]bool // sides of && and ||, and conditions
}

// target breaks a file, or all of a package but its tests.
func (b *breaker) target(name string) error {
	if strings.HasSuffix(name, ".go") {
		return b.file(name)
	}
	files, err := filepath.Glob(filepath.Join(name, "*.go"))
	if err != nil || len(files) == 0 {
		return fmt.Errorf("no Go files: %v", err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		if err := b.file(file); err != nil {
			return err
		}
	}
	return nil
}

// file breaks a file.
func (b *breaker) file(name string) error {
	src, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	b.name, b.src, b.fset = name, string(src), token.NewFileSet()
	b.whole, b.loop, b.covered = make(map[ast.Expr]bool), make(map[ast.Expr]bool), make(map[ast.Expr]bool)
	f, err := parser.ParseFile(b.fset, name, src, parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	if b.files == nil {
		b.files, b.helpers = make(map[string]string), make(map[string]string)
	}
	b.files[name] = b.src[:b.at(f.Pos())] + b.inner(f) + b.src[b.at(f.End()):]
	b.helpers[filepath.Join(filepath.Dir(name), "zz_mutant.go")] = f.Name.Name
	return nil
}

// replaced returns the text of all files, with those that turn mutants on.
func (b *breaker) replaced() map[string]string {
	for name, pkg := range b.helpers {
		b.files[name] = fmt.Sprintf(helper, pkg, len(b.mutants)+1)
	}
	return b.files
}

func (b *breaker) at(p token.Pos) int        { return b.fset.Position(p).Offset }
func (b *breaker) code(n ast.Node) string    { return b.src[b.at(n.Pos()):b.at(n.End())] }
func (b *breaker) set(m *mutant, n ast.Node) { m.file, m.line = b.name, b.fset.Position(n.Pos()).Line }
func (b *breaker) turn(id int) (on string)   { return fmt.Sprintf("isMutant(%d)", id) }
func (b *breaker) mark(e ast.Expr, loops bool) {
	b.whole[e], b.loop[e], b.covered[e] = !loops, loops, true
}

// add notes a mutant, and returns the expression that turns it on.
func (b *breaker) add(n ast.Node, kind string) (on string) {
	m := mutant{id: len(b.mutants) + 1, kind: kind, code: strings.Join(strings.Fields(b.code(n)), " ")}
	b.set(&m, n)
	b.mutants = append(b.mutants, m)
	return b.turn(m.id)
}

// inner returns the code of n, with what is in it broken.
func (b *breaker) inner(n ast.Node) string {
	var out strings.Builder
	at := b.at(n.Pos())
	ast.Inspect(n, func(c ast.Node) bool {
		if c == nil || c == n {
			return true
		}
		text, ok := b.broken(c)
		if ok {
			out.WriteString(b.src[at:b.at(c.Pos())] + text)
			at = b.at(c.End())
		}
		return !ok
	})
	out.WriteString(b.src[at:b.at(n.End())])
	return out.String()
}

// broken returns the code of n where it can be broken as a whole. It marks the
// conditions of statements, which come later.
func (b *breaker) broken(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.GenDecl:
		if n.Tok == token.CONST {
			b.constants(n)
			return b.code(n), true
		}
	case *ast.IfStmt:
		b.mark(n.Cond, false)
	case *ast.ForStmt:
		if n.Cond != nil {
			b.mark(n.Cond, true)
		}
	case *ast.SwitchStmt:
		if n.Tag == nil {
			for _, clause := range n.Body.List {
				for _, e := range clause.(*ast.CaseClause).List {
					b.mark(e, false)
				}
			}
		}
	case ast.Expr:
		return b.condition(n)
	}
	return "", false
}

func (b *breaker) condition(e ast.Expr) (string, bool) {
	switch {
	case b.whole[e]:
		never, always := b.add(e, "never"), b.add(e, "always")
		return fmt.Sprintf("(%s || !%s && (%s))", always, never, b.operands(e)), true
	case b.loop[e]:
		return fmt.Sprintf("(!%s && (%s))", b.add(e, "never"), b.operands(e)), true
	}
	if _, ok := e.(*ast.BinaryExpr); !ok {
		return "", false
	}
	text := b.operands(e)
	return text, text != b.code(e)
}

// operands returns the code of an expression in which sides of && and || can be left
// out, and comparisons be others.
func (b *breaker) operands(e ast.Expr) string {
	op, ok := e.(*ast.BinaryExpr)
	if !ok {
		if text, ok := b.only(e); ok {
			return text
		}
		return b.inner(e)
	}
	switch op.Op {
	case token.LAND:
		return b.side(op, op.X, "(%s || %s)") + " && " + b.side(op, op.Y, "(%s || %s)")
	case token.LOR:
		return b.side(op, op.X, "(!%s && (%s))") + " || " + b.side(op, op.Y, "(!%s && (%s))")
	}
	others := map[token.Token]string{token.LSS: "<=", token.LEQ: "<", token.GTR: ">=", token.GEQ: ">", token.EQL: "!=", token.NEQ: "=="}
	other, ok := others[op.Op]
	if !ok || b.covered[e] && (op.Op == token.EQL || op.Op == token.NEQ) { // never and always are that
		return b.inner(e)
	}
	on := b.add(e, "now "+other)
	x, y := b.part(op.X), b.part(op.Y)
	return fmt.Sprintf("(!%s && %s %s %s || %s && %s %s %s)", on, x, op.Op, y, on, x, other, y)
}

// side returns one side of && or ||, which the form leaves out.
func (b *breaker) side(op *ast.BinaryExpr, e ast.Expr, form string) string {
	if inner, ok := e.(*ast.BinaryExpr); ok && inner.Op == op.Op {
		return b.operands(e) // its sides are left out one by one
	}
	b.covered[e] = true
	on := b.add(e, "without")
	return fmt.Sprintf(form, on, b.operands(e))
}

// part returns the code of an operand.
func (b *breaker) part(e ast.Expr) string {
	if text, ok := b.broken(e); ok {
		return text
	}
	return b.inner(e)
}

// only unwraps parentheses and negations.
func (b *breaker) only(e ast.Expr) (string, bool) {
	switch e := e.(type) {
	case *ast.ParenExpr:
		return "(" + b.operands(e.X) + ")", true
	case *ast.UnaryExpr:
		if e.Op == token.NOT {
			return "!" + b.operands(e.X), true
		}
	}
	return "", false
}

// constants makes each limit twice and half of what it is.
func (b *breaker) constants(decl *ast.GenDecl) {
	for _, spec := range decl.Specs {
		v := spec.(*ast.ValueSpec)
		if v.Type != nil {
			continue // of an enumeration
		}
		for _, e := range v.Values {
			text := b.code(e)
			if strings.ContainsAny(text, "\"`'") || strings.Contains(text, "iota") || !strings.ContainsAny(text, "0123456789") && !strings.Contains(text, "time.") {
				continue
			}
			for _, change := range []string{"* 2", "/ 2"} {
				m := mutant{id: -1, kind: "now " + change, code: v.Names[0].Name + " = " + text}
				m.text = b.src[:b.at(e.Pos())] + "(" + text + ") " + change + b.src[b.at(e.End()):]
				b.set(&m, e)
				b.mutants = append(b.mutants, m)
			}
		}
	}
}

// helper is a file of each package.
const helper = `package %s

import (
	"os"
	"strconv"
	"sync/atomic"
)

var (
	mutantOn, _ = strconv.Atoi(os.Getenv("MUTANT"))
	mutantLog   = os.Getenv("MUTANT_LOG")
	mutantSeen  [%d]atomic.Bool
)

// isMutant reports whether a mutant is on, and notes that it was reached.
func isMutant(id int) bool {
	if mutantLog != "" && !mutantSeen[id].Swap(true) {
		if f, err := os.OpenFile(mutantLog, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600); err == nil {
			_, _ = f.WriteString(strconv.Itoa(id) + "\n")
			f.Close()
		}
	}
	return id == mutantOn
}
`
